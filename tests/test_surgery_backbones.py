"""Vision encoders whose config names the layers that give out features: DINOv2, BEiT and what is built on them."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    BeitForMaskedImageModeling,
    BeitForSemanticSegmentation,
    Data2VecVisionConfig,
    Data2VecVisionForSemanticSegmentation,
    Dinov2Backbone,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    WhisperConfig,
    WhisperForAudioClassification,
    YolosConfig,
    YolosForObjectDetection,
)

from layershap import remove_layers, skip_layers
from layershap.exceptions import SurgeryCheckError, UnsupportedModelError
from layershap.surgery.config import prune_config

from .helpers.families import perturbed

SIZES = {"hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 32, "num_labels": 3}
SMALL = {**SIZES, "image_size": 16, "patch_size": 8}
LARGE = {**SIZES, "image_size": 64, "patch_size": 16}
BIAS = {"use_relative_position_bias": True, "layer_scale_init_value": 0.5, "drop_path_rate": 0.1}
WEIGHED = {
    **{"d_model": 16, "encoder_layers": 6, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "num_labels": 3},
    **{"num_mel_bins": 8, "max_source_positions": 20, "vocab_size": 64, "pad_token_id": 0},
    **{"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "use_weighted_layer_sum": True},
}
SHARED = {**BIAS, "use_relative_position_bias": False, "use_shared_relative_position_bias": True}

MODELS = {
    "dinov2": lambda: Dinov2ForImageClassification(Dinov2Config(**SMALL, out_indices=[2, -1])),
    "dinov2 with registers": lambda: Dinov2WithRegistersForImageClassification(Dinov2WithRegistersConfig(**SMALL)),
    "beit": lambda: BeitForImageClassification(BeitConfig(**SMALL, **BIAS)),
    "beit with one bias for all": lambda: BeitForImageClassification(BeitConfig(**SMALL, **SHARED)),
    "beit of masked images": lambda: BeitForMaskedImageModeling(BeitConfig(**SMALL, **BIAS, vocab_size=50)),
    "beit of segments": lambda: BeitForSemanticSegmentation(BeitConfig(**LARGE, **BIAS, out_indices=[1, 3, 5, 6])),
    "upernet on beit": lambda: UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=BeitConfig(**LARGE, out_indices=[1, 3, 5, 6]), num_labels=3, hidden_size=8)
    ),
}


def made(make) -> nn.Module:
    torch.manual_seed(0)
    return perturbed(make())


def answers(model: nn.Module) -> Tensor:
    size = 16 if getattr(model.config, "image_size", 64) == 16 else 64
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model(pixel_values=pixels).logits.clone()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("error::layershap.exceptions.CheckpointWarning")
@pytest.mark.filterwarnings("ignore:.*meshgrid")
def test_what_is_removed_is_what_was_skipped_and_loads_plainly(name, tmp_path):
    model = made(MODELS[name])
    with skip_layers(model, [1, 3]):
        expected = answers(model)
    small = remove_layers(model, [1, 3])
    assert torch.equal(answers(small), expected)
    assert not torch.equal(answers(model), expected)
    small.save_pretrained(tmp_path)
    again = type(small).from_pretrained(tmp_path).eval()
    # Some processors round by where weights lie in memory: those of a file aren't aligned, copies of them are.
    assert torch.equal(answers(deepcopy(again)), expected)


@pytest.mark.parametrize("config_class", [Dinov2Config, BeitConfig])
def test_features_are_those_after_the_last_kept_layer(config_class):
    config = config_class(num_hidden_layers=6, out_indices=[0, 2, 3, -1])
    prune_config(config, 6, [0, 1, 3, 4])
    assert config.stage_names == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert config.out_indices == [0, 2, 4]  # after layer 2 the state was that after layer 1
    assert config.out_features == ["stem", "stage2", "stage4"]
    assert config_class(**config.to_dict()).to_dict() == config.to_dict()


def test_a_head_that_would_read_one_state_twice_is_refused_with_the_reason():
    model = made(lambda: BeitForSemanticSegmentation(BeitConfig(**LARGE, out_indices=[1, 2, 3, 6])))
    with pytest.raises(SurgeryCheckError, match="two of these are the same now: remove other layers"):
        remove_layers(model, [1])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        # It counts the layers from the embeddings on, by a field that isn't a backbone's.
        (
            lambda: Data2VecVisionForSemanticSegmentation(
                Data2VecVisionConfig(**LARGE, drop_path_rate=0.0, out_indices=[1, 3, 5, 7])
            ),
            SurgeryCheckError,
        ),
        # A table of position embeddings has an entry for each layer.
        (lambda: YolosForObjectDetection(YolosConfig(**{**SMALL, "image_size": [16, 16]})), SurgeryCheckError),
        # A sum of the states of all layers, with a weight for each: torch can't multiply them.
        (lambda: WhisperForAudioClassification(WhisperConfig(**WEIGHED)), SurgeryCheckError),
        (lambda: Dinov2Backbone(Dinov2Config(**SMALL)), UnsupportedModelError),
    ],
    ids=["data2vec of segments", "yolos", "weighted sum of layers", "bare backbone"],
)
def test_what_is_not_supported_is_refused(make, reason):
    with pytest.raises(reason):
        remove_layers(made(make), [1, 3])

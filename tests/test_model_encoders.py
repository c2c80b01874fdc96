"""Encoders: scored by a utility with data of its own, pruned exactly and reloaded; refused where tokens are scored."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    MobileNetV1Config,
    MobileNetV1ForImageClassification,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
)

from layershap import LayerGame, LayerPruner, find_layers, inspect, remove_layers, skip_layers
from layershap.checkpoint import load_pruned, save_pruned
from layershap.exceptions import CheckpointWarning, LedgerMismatchError, UnsupportedModelError
from layershap.model.split import find_sublayers

from .helpers.families import labelled_batch, tiny_bert, tiny_bert_classifier, tiny_modernbert, tiny_vit

ENCODERS = [tiny_bert, tiny_bert_classifier, tiny_modernbert, tiny_vit]
PATHS = {tiny_vit: "vit.layers", tiny_modernbert: "model.layers"}

each_encoder = pytest.mark.parametrize("make", ENCODERS)
pytestmark = [
    pytest.mark.filterwarnings("ignore::layershap.exceptions.SurrogateQualityWarning"),
    pytest.mark.filterwarnings("ignore::layershap.exceptions.ValueQualityWarning"),
]


def minus_loss(model: nn.Module, batch: dict[str, Tensor]) -> float:
    return -float(model(**batch).loss)


def utility(model: nn.Module):
    return functools.partial(minus_loss, batch=labelled_batch(model))


def answers(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return model(**labelled_batch(model)).logits.clone()


@each_encoder
@pytest.mark.filterwarnings("error::layershap.exceptions.CheckpointWarning")
@pytest.mark.filterwarnings("error::layershap.exceptions.UncheckedInputWarning")
def test_a_fit_without_texts_prunes_exactly_and_plain_loading_gives_the_same(make, tmp_path):
    model = make()
    pruner = LayerPruner(utility=utility(model), n_masks=12, protect=[0], random_state=0).fit(model)
    removed = pruner.removed_layers(1)
    with skip_layers(model, removed):
        expected = answers(model)
    small = pruner.transform(model, n_remove=1)
    assert find_layers(small, causal=False).path == PATHS.get(make, "bert.encoder.layer")
    assert small.config.num_hidden_layers == 3
    assert torch.equal(answers(small), expected)
    assert not torch.equal(answers(model), expected)
    assert pruner.report_.calibration.provenance["source"] == "the utility's own data"
    small.save_pretrained(tmp_path)
    assert torch.equal(answers(type(small).from_pretrained(tmp_path).eval()), expected)


@each_encoder
def test_scores_are_the_utility_of_the_model_without_the_layers(make):
    model = make()
    with LayerGame(model, None, utility=utility(model)) as game:
        found = game([[True] * 4, [True, False, True, False]])
        assert game.path == "callable"
    assert found[0] == pytest.approx(utility(model)(model))
    assert found[1] == pytest.approx(utility(model)(remove_layers(model, [1, 3])))


@each_encoder
def test_a_ledger_serves_the_same_data_alone(make, tmp_path):
    model = make()
    batch = labelled_batch(model)
    path = tmp_path / "ledger.jsonl"
    mask = np.array([True, False, True, True])
    with LayerGame(model, None, utility=functools.partial(minus_loss, batch=batch), ledger=path) as game:
        score = game(mask)
    with LayerGame(model, None, utility=functools.partial(minus_loss, batch=batch), ledger=path) as game:
        assert (game(mask) == score).all()
        assert game.n_evaluated == 0
    other = functools.partial(minus_loss, batch={**batch, "labels": batch["labels"] * 0})
    with pytest.raises(LedgerMismatchError, match="utility"):
        LayerGame(model, None, utility=other, ledger=path)


@each_encoder
def test_without_a_callable_the_reason_is_said(make):
    model = make()
    with pytest.raises(UnsupportedModelError, match=r"(not causal|predicts no tokens).*callable f\(model\)|callable"):
        LayerGame(model, torch.randint(5, 100, (2, 6)))
    with pytest.raises(ValueError, match="calibration data is required"):
        LayerGame(model, None)
    found = inspect(model)
    assert (found.forward, len(found.layers)) == ("none", 4)
    assert "callable" in found.forward_note


def test_sublayers_of_an_encoder_that_adds_them_up(tmp_path):
    model = tiny_vit()
    pruner = LayerPruner(utility=utility(model), n_masks=40, granularity="sublayer", random_state=0).fit(model)
    stack = find_sublayers(model, causal=False)
    with stack.skip(pruner.removed_layers(2)):
        expected = answers(model)
    with pytest.warns(CheckpointWarning):
        small = pruner.transform(model, n_remove=2)
    assert torch.equal(answers(small), expected)
    assert torch.equal(answers(load_pruned(save_pruned(small, tmp_path))), expected)


def test_a_first_layer_that_differs_is_saved_with_its_recipe(tmp_path):
    model = tiny_modernbert()  # the first layer has no norm before its attention
    with skip_layers(model, [0]):
        expected = answers(model)
    with pytest.warns(CheckpointWarning):
        small = remove_layers(model, [0])
    assert torch.equal(answers(small), expected)
    assert torch.equal(answers(load_pruned(save_pruned(small, tmp_path))), expected)


def test_what_cant_be_probed_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"ViTForImageClassification, say"):
        remove_layers(ViTModel(tiny_vit().config), [1])
    config = Wav2Vec2Config(
        vocab_size=32, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8,), conv_stride=(4,), conv_kernel=(4,), num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="reads input_values"):
        remove_layers(Wav2Vec2ForCTC(config), [1])


def test_layers_that_change_the_shape_of_their_states_are_refused():
    config = MobileNetV1Config(image_size=32, depth_multiplier=0.25, min_depth=4)
    with pytest.raises(UnsupportedModelError, match="none can be left out"):
        remove_layers(MobileNetV1ForImageClassification(config), [1])

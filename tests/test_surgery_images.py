"""Models that take images: features that enter by place keep it, and the self-check says what it did not read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import Granite4VisionConfig, Granite4VisionForConditionalGeneration

from layershap import LayerNotRemovableError, UncheckedInputWarning, find_layers, inspect, remove_layers, skip_layers
from layershap.surgery import unremovable_layers

from .architectures.build import build
from .helpers.families import tiny_qwen3_vl as sees
from .helpers.models import load_stories

TAPPED = [0, 1]


def on_an_image(model: nn.Module) -> Tensor:
    ids = torch.tensor([[5, 6, 192, 190, 190, 190, 190, 193, 7, 8, 9, 10]])
    pixels = torch.randn(16, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        output = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels,
            image_grid_thw=torch.tensor([[1, 4, 4]]),
            mm_token_type_ids=(ids == 190).long(),
        )
    return output.logits.clone()


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_layers_that_get_image_features_by_their_place_stay(kind):
    model = sees(kind)
    stack = find_layers(model)
    assert sorted(unremovable_layers(model, stack)) == TAPPED
    assert "deepstack" in inspect(model, forward=False).layers[1].reason
    for removed in ([0], [1], [1, 4]):
        with pytest.raises(LayerNotRemovableError, match="image features"):
            remove_layers(model, removed)
    for removed in ([2], [3, 5], [2, 3, 4, 5]):
        with skip_layers(model, removed):
            expected = on_an_image(model)
        with pytest.warns(UncheckedInputWarning, match="pixel_values"):
            pruned = remove_layers(model, removed)
        assert torch.allclose(on_an_image(pruned), expected, atol=1e-6)
    assert not torch.allclose(on_an_image(pruned), on_an_image(model), atol=1e-3)


def test_layers_that_the_config_names_for_features_stay():
    text = {"model_type": "granite", "vocab_size": 200, "hidden_size": 32, "intermediate_size": 48}
    text |= {"num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    vision = {"model_type": "siglip_vision_model", "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    places = {"deepstack_layer_map": [[-1, 1]], "spatial_target_layers": [0, 3]}
    config = Granite4VisionConfig(text_config=text, vision_config=vision, downsample_rate="4/8", **places)
    model = Granite4VisionForConditionalGeneration(config).eval()
    assert sorted(unremovable_layers(model, find_layers(model))) == [0, 1, 2, 3]


def test_the_decoder_alone_gets_no_features():
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = sees("dense")
            self.decoder, self.head = whole.model.language_model, whole.lm_head

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.decoder(input_ids=ids).last_hidden_state)

    model = Decoder()
    assert unremovable_layers(model, find_layers(model)) == {}


def test_the_self_check_says_what_it_did_not_read(recwarn):
    remove_layers(load_stories(), [1])
    remove_layers(build("git"), [1], check=False)
    assert not [entry for entry in recwarn if entry.category is UncheckedInputWarning]
    with pytest.warns(UncheckedInputWarning, match="read text only"):
        remove_layers(build("git"), [1])

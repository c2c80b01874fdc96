"""Quantisation configs that name layers: they name the same modules after a removal, or a warning says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from layershap import CheckpointWarning, remove_layers
from layershap.surgery.recipe import pruning_recipe

from .helpers.models import load_stories


def four_bits(kept: list[str], folder: Path) -> nn.Module:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 5, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=128)).save_pretrained(folder)
    config = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["lm_head", *kept])
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map="cpu")


def classes(model: nn.Module) -> dict[str, str]:
    return {name: type(module).__name__ for name, module in model.named_modules()}


@pytest.mark.parametrize(
    ("kept", "renumbered"),
    [
        (["model.layers.1.mlp"], ["model.layers.0.mlp"]),
        (["model.layers.4.mlp.down_proj", "model.layers.0.self_attn"], ["model.layers.2.mlp.down_proj"]),
        (["layers.3.self_attn.q_proj"], ["layers.1.self_attn.q_proj"]),
        (["up_proj"], ["up_proj"]),
    ],
)
@pytest.mark.filterwarnings("error::layershap.exceptions.CheckpointWarning")
def test_modules_left_in_16_bits_are_the_same_ones(kept, renumbered, tmp_path):
    pruned = remove_layers(four_bits(kept, tmp_path / "whole"), [0, 2])
    pruned.save_pretrained(tmp_path / "pruned")
    stored = json.loads((tmp_path / "pruned" / "config.json").read_text())["quantization_config"]
    assert stored["llm_int8_skip_modules"] == ["lm_head", *renumbered]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", device_map="cpu")
    assert classes(again) == classes(pruned)
    assert {"Linear", "Linear4bit"} <= set(classes(pruned).values())


@pytest.mark.parametrize("pattern", [r"model\.layers\.3\.mlp", r".*layers\.(1|3)\.mlp", "3.mlp.up_proj"])
def test_a_pattern_with_indices_is_told(pattern, tmp_path):
    model = four_bits([pattern], tmp_path)
    with pytest.warns(CheckpointWarning, match="quantization_config names other layers"):
        remove_layers(model, [0])


@pytest.mark.parametrize(
    ("config", "renumbered", "stale"),
    [
        ({"modules_to_not_convert": ["model.layers.2.mlp"]}, {"modules_to_not_convert": ["model.layers.1.mlp"]}, ()),
        ({"ignore": ["model.layers.1.mlp", "re:.*lm_head"]}, {"ignore": ["re:.*lm_head"]}, ()),
        (
            {"groups": {"a": {"targets": ["model.layers.4.mlp.up_proj"]}}},
            {"groups": {"a": {"targets": ["model.layers.3.mlp.up_proj"]}}},
            (),
        ),
        (
            {"bits_of": {"model.layers.0.mlp": 8, "model.layers.1.mlp": 8, "model.layers.3.mlp": 4}},
            {"bits_of": {"model.layers.0.mlp": 8, "model.layers.2.mlp": 4}},
            (),
        ),
        ({"modules_to_not_convert": ["vision.layers.3.mlp"]}, {"modules_to_not_convert": ["vision.layers.3.mlp"]}, ()),
        ({"ignore": [r"re:.*layers\.\d+\.mlp"]}, {"ignore": [r"re:.*layers\.\d+\.mlp"]}, ()),
        (
            {"dynamic": {r"-:model\.layers\.3\.": {}}},
            {"dynamic": {r"-:model\.layers\.3\.": {}}},
            (r"-:model\.layers\.3\.",),
        ),
    ],
)
def test_names_are_rewritten_wherever_they_lie(config, renumbered, stale):
    model = load_stories()
    model.config.quantization_config = config
    pruned = remove_layers(model, [1], check=False)
    assert pruned.config.quantization_config == renumbered
    assert pruning_recipe(pruned).stale_patterns == stale

"""Tiny random models of every type in transformers' causal LM mapping."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .configs import COMMON, SPECIAL, VOCABULARY

# Types that can't be built tiny, or that are no causal language model by themselves.
NOT_BUILT = {
    "dots3_note": "composite config refuses a small text part; dots3_note_text covers it",
    "gemma3n": "composite needs timm; gemma3n_text covers it",
    "gemma4_assistant": "draft head, needs its target's keys and values",
    "gemma4_unified_assistant": "draft head, needs its target's keys and values",
    "musicgen": "audio codebook decoder, its composite config is refused by AutoModelForCausalLM",
    "musicgen_melody": "audio codebook decoder, its composite config is refused by AutoModelForCausalLM",
}


@functools.cache
def model_types() -> tuple[str, ...]:
    """All types that are built, in alphabetical order."""
    return tuple(sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(NOT_BUILT)))


def _fields(config: Any) -> set[str]:
    """Names that a config class accepts, without aliases."""
    names = set(vars(config))
    if dataclasses.is_dataclass(config):
        names |= {field.name for field in dataclasses.fields(config)}
    return names - set(getattr(config, "attribute_map", {}) or {})


def tiny_config(model_type: str) -> Any:
    """The config of a tiny model of this type."""
    config_class = CONFIG_MAPPING[model_type]
    default = config_class()
    special = SPECIAL.get(model_type, {})
    values = {name: value for name, value in COMMON.items() if name in _fields(default)}
    values.update({name: value for name, value in special.items() if not name.startswith("@")})
    for name in getattr(default, "sub_configs", None) or {}:
        nested = getattr(default, name, None)
        if nested is not None and hasattr(nested, "to_dict"):
            own = {key: value for key, value in COMMON.items() if key in _fields(nested)}
            values[name] = {**own, **special.get("@" + name, {}), "model_type": nested.model_type}
    return config_class(**values)


def build(model_type: str, seed: int = 0) -> nn.Module:
    """A tiny float32 model, its weights perturbed so that every layer matters."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type)).eval().float()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                scale = 0.08 if parameter.dim() >= 2 else 0.02
                parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
    return model


def token_ids(rows: int = 2, tokens: int = 14, seed: int = 0) -> torch.Tensor:
    """Random token ids [rows, tokens] away from the special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, VOCABULARY - 8, (rows, tokens), generator=generator)

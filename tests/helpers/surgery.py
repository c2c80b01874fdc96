"""What a removal is held against: logits, weights and generated tokens of a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.architectures.build import token_ids


def logits(model: nn.Module, ids: Tensor | None = None) -> Tensor:
    ids = token_ids(tokens=20) if ids is None else ids
    with torch.inference_mode():
        output = model(ids)
    return (output if isinstance(output, Tensor) else output.logits).clone()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def generate(model: nn.Module, *, use_cache: bool) -> Tensor:
    ids = token_ids(rows=1, tokens=6)
    return model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, use_cache=use_cache
    )

"""A model's logits on a short probe, and how closely two models must agree on them to be the same function.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from layershap.model.io import evaluation_mode, input_device, vocabulary_size, weights_precision
from layershap.model.samples import sample_logits

_PROBE_ROWS, _PROBE_TOKENS = 2, 12

# Errors that a model's own code may raise. From its generate() on the probe they decide nothing about the surgery,
# unless the intact model generates and the pruned one does not; its constructor may not take a config, or need memory;
# a layer may need what earlier ones computed; a file may hold what transformers can't read.
MODEL_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    NotImplementedError,
    StrictDataclassError,  # a config's own validation
)


def probe_ids(model: nn.Module) -> Tensor:
    """Token ids [B, T] for the checks; fixed, spread over the vocabulary, special ids at its start avoided."""
    vocabulary = vocabulary_size(model) or 2
    generator = torch.Generator().manual_seed(0)
    low = min(8, vocabulary // 2)
    shape = (_PROBE_ROWS, _PROBE_TOKENS)
    return torch.randint(low, vocabulary, shape, generator=generator, device="cpu").to(input_device(model))


def plain_logits(model: nn.Module) -> Tensor:
    """Logits [B, T, V] of the probe ([B, ...] of a model that predicts no tokens), on the CPU."""
    with evaluation_mode(model), torch.inference_mode():
        return sample_logits(model, probe_ids(model)).float().cpu().clone()


def tolerance(model: nn.Module) -> float:
    """Largest accepted difference relative to the largest logit: a few roundings of the model's own precision."""
    if getattr(getattr(model, "config", None), "model_type", None) == "rwkv":
        # The rescaled state meets a layer norm whose epsilon is not rescaled with it.
        return 1e-2
    return max(1e-4, 8 * torch.finfo(weights_precision(model)).eps)


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference over the largest absolute value; infinite if shapes or non-finite places differ."""
    finite = torch.isfinite(a)
    if a.shape != b.shape or not torch.equal(finite, torch.isfinite(b)):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    scale = max(float(b[finite].abs().max()), 1e-6)
    return float((a[finite] - b[finite]).abs().max()) / scale

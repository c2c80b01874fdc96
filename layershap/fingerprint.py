"""What a score depends on, as plain JSON values: weights, calibration tokens, statistics, precision, versions."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from layershap.calibration import Calibration
from layershap.forward.settings import EngineSettings
from layershap.model.sublayers import Players, SublayerStack

_WHOLE = 2**20
"""Tensors up to this many elements are hashed whole; of larger ones an even sample of as many, and their sum."""


def fingerprint(
    model: nn.Module, stack: Players, calibration: Calibration, statistics: tuple[str, ...], settings: EngineSettings
) -> dict[str, Any]:
    """The fingerprint that a ledger's header carries."""
    parameter = next(model.parameters(), None)
    return {
        "model": type(model).__name__,
        "weights": weights_digest(model),
        "n_layers": len(stack.layers),
        "layers": stack.path,
        "granularity": "sublayer" if isinstance(stack, SublayerStack) else "layer",
        "dtype": str(parameter.dtype) if parameter is not None else "none",
        "device": parameter.device.type if parameter is not None else "none",
        "calibration": calibration.digest,
        "statistics": list(statistics),
        "batch_tokens": settings.batch_tokens,
        "memory_budget": settings.memory_budget,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and (for large tensors, a sample of) values of parameters and buffers."""
    sha = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if tensor.device.type != "meta":
            sha.update(_sample(tensor.detach()))
    return sha.hexdigest()


def _sample(tensor: Tensor) -> bytes:
    if hasattr(tensor, "__tensor_flatten__"):  # quantised by torchao: a subclass that holds plain tensors
        names, _ = tensor.__tensor_flatten__()
        return b"".join(_sample(getattr(tensor, name)) for name in names)
    flat = tensor.reshape(-1)
    total = b""
    if flat.numel() > _WHOLE:
        if flat.is_floating_point():
            total = np.float64(flat.sum(dtype=torch.float64).item()).tobytes()
        index = torch.linspace(0, flat.numel() - 1, _WHOLE, dtype=torch.float64, device=flat.device).long()
        flat = flat[index]
    return total + flat.contiguous().view(torch.uint8).cpu().numpy().tobytes()

"""A digest of all values of a model's parameters and buffers, streamed: at most one module's weights at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from layershap.exceptions import UnsupportedModelError
from layershap.forward.offload import loaded

_CHUNK = 2**26
"""Bytes that are brought to the host at once."""


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and values of parameters and buffers, offloaded ones included.

    Raises
    ------
    UnsupportedModelError
        Some weights have no values: the model is on the meta device.
    """
    sha = hashlib.sha256()
    for name, tensor in _tensors(model, ""):
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if tensor.device.type == "meta":
            raise UnsupportedModelError(
                f"{name} of the {type(model).__name__} is on the meta device, so the model has no values to tell it "
                "by; load its weights first"
            )
        add_values(sha.update, tensor.detach())
    return sha.hexdigest()


def add_values(update: Callable[[memoryview], object], tensor: Tensor) -> None:
    """Feed a tensor's bytes to a hash; subclasses that hold plain tensors (torchao) feed those."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            add_values(update, getattr(tensor, name))
        return
    state = getattr(tensor, "quant_state", None)  # bitsandbytes keeps the scales of 4-bit weights here
    if state is not None:
        for value in state.as_dict(packed=False).values():
            if isinstance(value, Tensor):
                add_values(update, value)
    flat = tensor.to_dense() if tensor.is_sparse else tensor
    flat = flat.reshape(-1)
    size = max(1, _CHUNK // max(flat.element_size(), 1))
    for start in range(0, flat.numel(), size):
        part = flat[start : start + size].contiguous().view(torch.uint8).cpu().numpy()
        update(memoryview(np.ascontiguousarray(part)))


def _tensors(module: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name, offloaded ones loaded module by module.

    What several modules share comes under each of its names, so that it makes no difference where weights are kept.
    """
    with loaded(module):
        for name, tensor in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
            yield prefix + name, tensor
        for name, child in module.named_children():
            yield from _tensors(child, f"{prefix}{name}.")

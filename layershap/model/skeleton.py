"""Models on the meta device: shapes without values, enough to find layers, count work, and prune a skeleton."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from layershap.exceptions import UnsupportedModelError


def on_meta_device(model: nn.Module) -> bool:
    """Whether the model is a skeleton without values; one whose weights accelerate loads for each call is not."""
    parameter = next(model.parameters(), None)
    if parameter is None or parameter.device.type != "meta":
        return False
    return not any(hasattr(module, "_hf_hook") for module in model.modules())


def refuse_skeleton(model: nn.Module, what: str) -> None:
    """Raise for a model on the meta device; `what` says what can't be done with it.

    Raises
    ------
    UnsupportedModelError
    """
    if on_meta_device(model):
        raise UnsupportedModelError(
            f"this {type(model).__name__} is on the meta device: its weights have no values, so {what}. Load the "
            "weights (from_pretrained)"
        )


@contextmanager
def shapes_only(model: nn.Module) -> Iterator[None]:
    """Let a model on the meta device run its forward; do nothing for others. Enter it after inference mode.

    Where the code asks for a value (transformers looks for padding and packed sequences), the answer is True or 0, as
    for whole sequences of tokens; what is copied to another device is zeros.
    """
    if not on_meta_device(model):
        yield
        return
    # Inference mode would hand over whole operations, which ask for values in their parts.
    with torch.inference_mode(False), torch.no_grad(), _Shapes():
        yield


class _Shapes(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if first is not None and first.device.type == "meta":
            if func is torch.ops.aten._local_scalar_dense.default:
                return first.dtype == torch.bool or (0.0 if first.dtype.is_floating_point else 0)
            target = kwargs.get("device")
            if func is torch.ops.aten._to_copy.default and target is not None and target.type != "meta":
                return torch.zeros(first.shape, dtype=kwargs.get("dtype") or first.dtype, device=target)
        return func(*args, **kwargs)

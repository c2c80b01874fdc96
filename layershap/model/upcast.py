"""Running a model of half precision in float32, one layer's weights at a time.

A float32 copy of the whole model would take twice its memory again. Here only what is none of the layers (embeddings,
norms, head, another encoder) is widened for the time of the context, and each layer for the time of its call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from layershap.model.io import is_quantized
from layershap.model.patching import claimed, patched

NARROW = (torch.float16, torch.bfloat16)
"""Types of half precision."""


def why_not_float32(model: nn.Module) -> str:
    """Why `in_float32` can't serve a model; '' where it can."""
    if is_quantized(model):
        return "the weights are quantised"
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        return "the weights are offloaded"
    return ""


def is_narrow(model: nn.Module) -> bool:
    """Whether some weights are of float16 or bfloat16."""
    return any(parameter.dtype in NARROW for parameter in model.parameters())


@contextmanager
def in_float32(model: nn.Module, layers: Sequence[nn.Module]) -> Iterator[None]:
    """Let the model compute in float32 with the values that its weights have.

    Parameters
    ----------
    model : nn.Module
        Its weights are as they were when the context is left, the same tensors.
    layers : sequence of nn.Module
        Each is widened while it is called.

    Raises
    ------
    ModelInUseError
        Another thread is working on the model.
    """
    own = {id(module) for layer in layers for module in layer.modules()}
    rest = [module for module in model.modules() if id(module) not in own]

    def widening(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            with _widened(layers[index].modules()):
                return original(*args, **kwargs)

        return forward

    with claimed(model.modules()), _widened(rest), patched(layers, widening):
        yield


@contextmanager
def _widened(modules: Iterable[nn.Module]) -> Iterator[None]:
    replaced: list[tuple[dict[str, Any], str, Tensor]] = []
    wide: dict[int, Tensor] = {}  # tied weights stay one tensor
    try:
        for module in modules:
            both: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for held in both:
                for name, tensor in held.items():
                    if tensor is None or tensor.dtype not in NARROW:
                        continue
                    if id(tensor) not in wide:
                        wide[id(tensor)] = _float32(tensor)
                    replaced.append((held, name, tensor))
                    held[name] = wide[id(tensor)]
        yield
    finally:
        try:
            _put_back(replaced)
        except KeyboardInterrupt:
            _put_back(replaced)
            raise


def _put_back(replaced: list[tuple[dict[str, Any], str, Tensor]]) -> None:
    for held, name, tensor in reversed(replaced):
        held[name] = tensor


def _float32(tensor: Tensor) -> Tensor:
    wide = tensor.detach().float()
    return nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide

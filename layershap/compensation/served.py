"""Which layers a compensation can serve, and why not the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import nn

from layershap.compensation.linear import LinearLayer, is_linear
from layershap.compensation.writes import Write, WriteFinder
from layershap.exceptions import UnsupportedModelError
from layershap.model.stack import LayerStack

Found = TypeVar("Found")


LinearWrite = tuple[Write, LinearLayer]
"""How a layer writes to the residual stream, and the linear layer by which it does."""


def linear_writes_of(finder: WriteFinder, model: nn.Module, stack: LayerStack, layer: int) -> list[LinearWrite]:
    """The writes of a layer that are linear layers, the last one first, which must be one."""
    finder.check_tokens_have_rows()
    *earlier, last = [(write, stack.layers[layer].get_submodule(write.name)) for write in finder.of(layer)]
    found = [(last[0], LinearLayer.of(last[1], f"layer {layer} of {type(model).__name__}"))]
    return found + [(write, LinearLayer(module)) for write, module in reversed(earlier) if is_linear(module)]


def linear_writes(
    finder: WriteFinder, model: nn.Module, stack: LayerStack, layers: Iterable[int]
) -> tuple[dict[int, list[LinearWrite]], tuple[str, ...]]:
    """`linear_writes_of` each layer whose last write is a linear layer, and why the other layers are left alone.

    Raises
    ------
    UnsupportedModelError
        It is in none of the layers: the first one's reason.
    """
    found: dict[int, list[LinearWrite]] = {}
    reasons: dict[int, UnsupportedModelError] = {}
    for layer in layers:
        try:
            found[layer] = linear_writes_of(finder, model, stack, layer)
        except UnsupportedModelError as error:
            reasons[layer] = error
    if reasons and not found:
        raise next(iter(reasons.values()))
    return found, tuple(f"layer {layer} is left alone: {reason}" for layer, reason in reasons.items())


def first_served(layers: Iterable[int], serve: Callable[[int], Found]) -> Found:
    """What is found for the first layer that isn't refused.

    Raises
    ------
    UnsupportedModelError
        All layers are refused: the first one's reason.
    """
    reasons: list[UnsupportedModelError] = []
    for layer in layers:
        try:
            return serve(layer)
        except UnsupportedModelError as error:
            reasons.append(error)
    raise reasons[0]

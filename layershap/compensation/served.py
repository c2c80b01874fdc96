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


def linear_write(finder: WriteFinder, model: nn.Module, stack: LayerStack, layer: int) -> tuple[Write, LinearLayer]:
    """The last write of a layer, which must be a linear layer."""
    finder.check_tokens_have_rows()
    write = finder.of(layer)[-1]
    where = f"layer {layer} of {type(model).__name__}"
    return write, LinearLayer.of(stack.layers[layer].get_submodule(write.name), where)


def linear_writes(
    finder: WriteFinder, model: nn.Module, stack: LayerStack, layers: Iterable[int]
) -> tuple[dict[int, tuple[Write, LinearLayer]], tuple[str, ...]]:
    """The last write of each layer where it is a linear layer, and why the other layers are left alone.

    Raises
    ------
    UnsupportedModelError
        It is in none of the layers: the first one's reason.
    """
    found: dict[int, tuple[Write, LinearLayer]] = {}
    reasons: dict[int, UnsupportedModelError] = {}
    for layer in layers:
        try:
            found[layer] = linear_write(finder, model, stack, layer)
        except UnsupportedModelError as error:
            reasons[layer] = error
    if reasons and not found:
        raise next(iter(reasons.values()))
    return found, tuple(f"layer {layer} is left alone: {reason}" for layer, reason in reasons.items())


def earlier_linear_writes(finder: WriteFinder, stack: LayerStack, layer: int) -> list[tuple[Write, LinearLayer]]:
    """The writes of a layer before its last one that are linear layers, the latest first."""
    found = []
    for write in reversed(finder.of(layer)[:-1]):
        module = stack.layers[layer].get_submodule(write.name)
        if is_linear(module):
            found.append((write, LinearLayer(module)))
    return found


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

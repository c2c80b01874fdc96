"""The size of a model without some of its layers, counted from its parameters: nothing is copied or run."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from layershap.model.sublayers import Players
from layershap.surgery.remove import split_removed


def size_without(model: nn.Module, players: Players, removed: Sequence[int]) -> tuple[int, int]:
    """Parameters and bytes of the parameters that are left without some layers, or sublayers.

    A parameter that a removed layer shares with what stays is left, and counted once.

    Parameters
    ----------
    model : nn.Module
        The whole model, on any device, the meta device too.
    players : LayerStack or SublayerStack
        Its layers, or sublayers.
    removed : sequence of int
        Indices into `players`; may be empty.
    """
    whole, parts = split_removed(players, removed)
    roots = [players.layers[layer] for layer in whole] + [part.module for sublayer in parts for part in sublayer.parts]
    gone = {id(module) for root in roots for module in root.modules()}
    left = {
        id(parameter): parameter
        for module in model.modules()
        if id(module) not in gone
        for parameter in module.parameters(recurse=False)
    }
    return (
        sum(parameter.numel() for parameter in left.values()),
        sum(parameter.numel() * parameter.element_size() for parameter in left.values()),
    )

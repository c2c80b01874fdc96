"""Renumbering: whatever in the model remembers a layer's index or the number of layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

_INDEX_ATTRIBUTES = ("layer_idx", "layer_id", "layer_number", "layer_index", "layer_num", "block_idx")
_COUNT_ATTRIBUTES = ("num_layers", "n_layers", "n_layer", "num_hidden_layers", "num_blocks")


def renumber_layers(layers: Sequence[nn.Module], kept: Sequence[int]) -> None:
    """Give the kept layers the indices of their new places, in all their submodules.

    Parameters
    ----------
    layers : sequence of nn.Module
        The kept layers in order.
    kept : sequence of int
        Their old indices.

    Notes
    -----
    The index need not be the layer's own: it may count from one, and a block that holds two attentions numbers them
    2i and 2i + 1. The smallest stride that explains an attribute in all layers that have it is taken.
    """
    found: dict[tuple[str, str], list[tuple[int, int, nn.Module]]] = {}
    for new, (old, layer) in enumerate(zip(kept, layers, strict=True)):
        for path, module in layer.named_modules():
            for name in _INDEX_ATTRIBUTES:
                if isinstance(vars(module).get(name), int):
                    found.setdefault((path, name), []).append((old, new, module))
    for (_, name), places in found.items():
        values = [vars(module)[name] for _, _, module in places]
        stride = _stride([old for old, _, _ in places], values)
        if stride is None:
            continue
        for (old, new, module), value in zip(places, values, strict=True):
            setattr(module, name, value + stride * (new - old))


def _stride(olds: Sequence[int], values: Sequence[int]) -> int | None:
    for stride in (1, 2, 3, 4):
        offsets = {value - stride * old for old, value in zip(olds, values, strict=True)}
        if len(offsets) == 1 and 0 <= next(iter(offsets)) <= max(1, stride - 1):
            return stride
    return None


def mend_stale_attributes(
    model: nn.Module,
    layers: Sequence[nn.Module],
    changes: Mapping[str, tuple[Any, Any]],
    n_layers: int,
    kept: Sequence[int],
) -> None:
    """Update copies of changed config fields, layer counts and lists per layer that modules keep for themselves.

    Inside the layers only lists are updated: a number there that equals the count may be part of the mathematics.
    The module that holds the layers may have worked out something for each (the kind of its rotary table, say).
    """
    inside = {id(module) for layer in layers for module in layer.modules()}
    parents = {id(m) for m in model.modules() if any(c is layer for c in _grandchildren(m) for layer in layers[:1])}
    for module in model.modules():
        own = vars(module)
        for name, (old, new) in changes.items():
            if name in own and own[name] == old and (isinstance(old, list | tuple) or id(module) not in inside):
                setattr(module, name, new)
        if id(module) in parents:
            for name in _COUNT_ATTRIBUTES:
                if own.get(name) == n_layers:
                    setattr(module, name, len(kept))
            for name, value in list(own.items()):
                if name not in changes and _is_one_scalar_per_layer(value, n_layers):
                    setattr(module, name, type(value)(value[i] for i in kept))


def _is_one_scalar_per_layer(value: Any, n_layers: int) -> bool:
    return (
        type(value) in (list, tuple)
        and len(value) == n_layers
        and all(isinstance(entry, str | int | float | None) for entry in value)
        and value != type(value)(range(n_layers))
    )


def _grandchildren(module: nn.Module) -> list[nn.Module]:
    return [layer for child in module.children() if isinstance(child, nn.ModuleList | nn.Sequential) for layer in child]


def renumber_device_map(model: nn.Module, path: str, positions: Mapping[int, int]) -> None:
    """Rewrite accelerate's ``hf_device_map``: old position -> new position of each kept layer under `path`."""
    device_map = getattr(model, "hf_device_map", None)
    if not isinstance(device_map, dict):
        return
    renumbered = {new: device for name, device in device_map.items() if (new := rename(name, path, positions))}
    model.hf_device_map = renumbered  # type: ignore[assignment]


def rename(name: str, path: str, positions: Mapping[int, int]) -> str | None:
    """The dotted `name` after renumbering, unchanged if it is not under ``path.<index>``, None if it was removed."""
    match = re.fullmatch(rf"((?:.*\.)?{re.escape(path)}\.)(\d+)((?:\..*)?)", name)
    if match is None:
        return name
    new = positions.get(int(match[2]))
    return None if new is None else f"{match[1]}{new}{match[3]}"

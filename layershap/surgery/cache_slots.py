"""Which slot of the key-value cache each mixer writes, where some layers have lost their mixer.

transformers keeps one slot per layer, of the layer's kind, and reads the cache's length from the first slot of a kind
(for recurrent states: from the last). So the first mixer that is left of each kind takes that slot; the others keep
their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from layershap.model.split import mixer_children
from layershap.model.sublayers import AbsentSublayer

_INDEX = "layer_idx"

RECURRENT_KINDS = {"linear_attention", "mamba", "conv", "recurrent"}
"""Kinds of layers, as configs name them, whose state is no growing key-value cache."""


def lacks_mixer(layer: nn.Module) -> bool:
    """Whether the layer's mixer was removed."""
    return any(isinstance(module, AbsentSublayer) and module.kind == "mixer" for module in layer.modules())


def restore(layers: Sequence[nn.Module]) -> None:
    """Give every mixer the slot of its own layer again."""
    if any(map(lacks_mixer, layers)):
        for index, layer in enumerate(layers):
            _place(layer, index, _stride(layers))


def assign(layers: Sequence[nn.Module], kinds: Sequence[str]) -> None:
    """Let one mixer of each kind take the slot that the cache's length is read from; nothing changes if none is gone.

    Parameters
    ----------
    layers : sequence of nn.Module
        All layers of the model.
    kinds : sequence of str
        The config's names of their kinds; empty if all are alike.
    """
    if not any(map(lacks_mixer, layers)):
        return
    restore(layers)
    named = list(kinds) or [""] * len(layers)
    for kind in set(named):
        slots = [i for i, other in enumerate(named) if other == kind]
        holders = [i for i in slots if not lacks_mixer(layers[i])]
        if holders:
            end = -1 if kind in RECURRENT_KINDS else 0
            _place(layers[holders[end]], slots[end], _stride(layers))


def _stride(layers: Sequence[nn.Module]) -> int:
    """Slots of one layer: two where it holds two attentions, numbered 2i and 2i + 1 (longcat_flash)."""
    return max(len({vars(module)[_INDEX] for module in _slot_holders(layer)}) for layer in layers) or 1


def _place(layer: nn.Module, slot: int, stride: int) -> None:
    for module in _slot_holders(layer):
        setattr(module, _INDEX, stride * slot + vars(module)[_INDEX] % stride)


def _slot_holders(layer: nn.Module) -> Iterator[nn.Module]:
    for child in mixer_children(layer):
        for module in child.modules():
            if isinstance(vars(module).get(_INDEX), int):
                yield module

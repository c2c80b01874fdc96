"""What passes from layer to layer: the hidden states, and in some families more.

Most layers hand on nothing but their hidden states. Some return a second value that the parent gives to the next layer
(router state in zaya, the indexer's choice in glm_moe_dsa, a second stream in reformer), some write into a mapping that
all layers share (keys and values in gemma3n and gemma4). Both belong to the coalition that computed them.

Shapes: B rows of a block, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from layershap.model.calls import ArgumentKey


@dataclass(frozen=True)
class State:
    """The state of one coalition's forward on one block, between two layers.

    Attributes
    ----------
    hidden : Tensor
        Hidden states, usually [B, T, D].
    carried : dict
        What else the next layer receives, by the argument that receives it: a tensor, None, or the entries of a shared
        mapping.
    """

    hidden: Tensor
    carried: dict[ArgumentKey, Any] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """Memory of its tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in _tensors((self.hidden, self.carried)))

    def scaled(self, scale: float) -> State:
        """The state with its hidden states multiplied."""
        return State(self.hidden * scale, self.carried)

    def to(self, device: torch.device) -> State:
        """The state on another device; itself if it is there."""
        return State(_moved(self.hidden, device), _moved(self.carried, device))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for element in value.values() if isinstance(value, dict) else value:
            yield from _tensors(element)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(element, device) for key, element in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_moved(element, device) for element in value)
    return value

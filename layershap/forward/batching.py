"""Arguments and states that grow with the batch: which dimension grows, and how they are repeated, joined and parted.

Which dimension of a tensor is the batch is never guessed from its shape (bloom's alibi is [B * heads, ...], xlnet's
hidden states are [T, B, D]): it is observed by comparing a forward of two rows with one of three.

Shapes: B rows of a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Batching: TypeAlias = "int | dict[Any, Batching] | None"
"""Which dimension of a value grows with the batch: a tensor's dimension, None, or the same for each element."""


class ReplayError(Exception):
    """Layers can't be replayed from a capture; the plain path serves the model."""


def observe(two: Any, three: Any) -> Batching:
    """Compare a value for a batch of two rows with the same for three.

    Raises
    ------
    ReplayError
        A tensor grows in another way than one dimension in proportion to the rows.
    """
    if isinstance(two, Tensor) and isinstance(three, Tensor):
        if two.dim() != three.dim():
            raise ReplayError(f"an argument has shape {tuple(two.shape)} for two rows, {tuple(three.shape)} for three")
        growing = [d for d in range(two.dim()) if two.shape[d] != three.shape[d]]
        if not growing:
            return None
        if len(growing) > 1 or two.shape[growing[0]] * 3 != three.shape[growing[0]] * 2:
            raise ReplayError(f"an argument grows from {tuple(two.shape)} to {tuple(three.shape)} for a third row")
        return growing[0]
    if isinstance(two, Mapping) and isinstance(three, Mapping):
        found = {key: observe(two[key], three[key]) for key in two}
    elif isinstance(two, tuple | list) and isinstance(three, tuple | list) and len(two) == len(three):
        found = {index: observe(a, b) for index, (a, b) in enumerate(zip(two, three, strict=True))}
    else:
        return None
    return found if any(value is not None for value in found.values()) else None


def repeated(value: Any, batching: Batching, repeats: int) -> Any:
    """A value as it would be for `repeats` copies of the block, one after the other along the batch."""
    return joined([value] * repeats, batching)


def joined(values: Sequence[Any], batching: Batching) -> Any:
    """Values of several blocks as one value, in order along the batch. What doesn't grow is taken from the first."""
    first = values[0]
    if len(values) == 1 or batching is None:
        return first
    if isinstance(batching, int):
        return torch.cat(list(values), dim=batching)
    return _rebuilt(first, lambda key: joined([value[key] for value in values], batching.get(key)))


def parted(value: Any, batching: Batching, parts: int) -> list[Any]:
    """The opposite of `joined`. Tensors are copied, so that one part's life doesn't keep its neighbours' memory."""
    if parts == 1 or batching is None:
        return [value] * parts
    if isinstance(batching, int):
        return [part.clone() for part in value.chunk(parts, dim=batching)]
    keys = value if isinstance(value, Mapping) else range(len(value))
    split = {key: parted(value[key], batching.get(key), parts) for key in keys}
    return [_rebuilt(value, lambda key, part=part: split[key][part]) for part in range(parts)]


def _rebuilt(like: Any, element: Any) -> Any:
    """A mapping, list, tuple or named tuple with the elements ``element(key)``."""
    if isinstance(like, Mapping):
        return {key: element(key) for key in like}
    items = [element(index) for index in range(len(like))]
    return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)

"""What a sampler is: which masks to draw.

Shapes: M masks, L layers (here the players that are drawn over).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from layershap.protocols.arrays import FloatArray, MaskArray


@runtime_checkable
class Sampler(Protocol):
    """Draws the masks that values are estimated from."""

    def sample(self, n_layers: int, n_masks: int, rng: np.random.Generator) -> MaskArray:
        """Draw at most `n_masks` masks over `n_layers` free layers [M, n_layers], with `rng` alone.

        Protected layers are left out.

        Called when `fit` draws masks, before any search: once, or once per round if the sampler is adaptive.
        """
        ...


@runtime_checkable
class AdaptiveSampler(Sampler, Protocol):
    """A sampler that learns from scores: ``fit`` then asks in rounds and reports back after each."""

    def update(self, masks: MaskArray, scores: FloatArray) -> None:
        """Learn from all `masks` drawn so far [M, n_layers] and their `scores` [M], not all of them finite perhaps.

        Called when a round of masks was scored, on the copy of the sampler that `fit` works with.
        """
        ...


@runtime_checkable
class UniformSampler(Sampler, Protocol):
    """A sampler whose masks are uniform within each size: values can then be corrected by the surrogate's errors."""

    @property
    def uniform_within_sizes(self) -> bool:
        """Whether each mask of a size is as likely as any other of that size.

        Read when values are estimated: True lets ``unbiased=True`` correct them.
        """
        ...


@runtime_checkable
class StrataSampler(Sampler, Protocol):
    """A sampler that tells which coalition sizes it draws from; the values then average over these sizes.

    With other samplers the values average over the sizes of the masks drawn.
    """

    @property
    def strata(self) -> Sequence[int] | Sequence[float] | str | None:
        """Numbers of kept layers, fractions of them, 'all', or None for the paper's.

        Read when masks are drawn. Where veto players are kept in all masks, numbers are set to so many fewer on a copy
        of the sampler (`set_params`, or else the attribute).
        """
        ...


@runtime_checkable
class LeaveOneOutSampler(Sampler, Protocol):
    """A sampler that may begin with the masks that lack one layer, which `fit` often knows already."""

    @property
    def leave_one_out(self) -> bool:
        """Whether the masks that lack one layer come first.

        Read when masks are drawn: those that are known already are then asked for on top of the draws.
        """
        ...

"""Array aliases and the words that the other protocols are written in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

from layershap.arrays import FloatArray as FloatArray
from layershap.arrays import IntArray as IntArray
from layershap.arrays import MaskArray as MaskArray

Game = Callable[[MaskArray], FloatArray]
"""A cooperative game over layers: masks [M, L] -> scores [M]."""

Weights = Literal["strata", "shapley"]
"""Over which coalition sizes a value averages: the sampled strata (the paper), or all with Shapley's weights."""

Statistic = str
"""What the forward can measure per scored token:

- ``nll``, the negative log-likelihood of the label (nats);
- ``kl``, the KL divergence from the dense model (nats); ``kl_top20``, the same with all but the dense model's 20 most
  probable tokens counted as one (any number of tokens);
- ``hits``, whether the label is the most probable token (0 or 1).
"""


@runtime_checkable
class CountedGame(Protocol):
    """A game that knows how many players it has, as `LayerGame` does: `layershap.shapley` then need not be told."""

    @property
    def n_players(self) -> int:
        """The number of players L.

        Read when a function of `layershap.shapley` is called without `n_players`.
        """
        ...

    def __call__(self, masks: MaskArray, /) -> FloatArray:
        """Scores [M] of masks [M, L].

        Called when coalitions are evaluated, with many of them at once.
        """
        ...

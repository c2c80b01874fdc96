"""BlockPruner: remove attention and feed-forward parts one at a time, re-evaluating after each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

from layershap.baselines.base import DepthPruner, FitInput, Outcome
from layershap.baselines.perplexity import perplexity_game
from layershap.model.stack import LayersArgument
from layershap.model.sublayers import Granularity
from layershap.protocols import IntArray
from layershap.selection.greedy import greedy_order


class BlockPruner(DepthPruner):
    """Greedy elimination of sublayers: at each step, the attention (or other mixer) or feed-forward part whose removal
    leaves the lowest perplexity.

    Everything counts sublayers: `n_remove`, `protect`, the result of `removed_layers` (indices into
    ``layershap.find_sublayers(model).names``), and L.

    Parameters
    ----------
    n_remove : int or float, optional
        Sublayers that `transform` removes if it isn't told, or a fraction of them (0.25).
    max_remove : int, optional
        Steps made by `fit`; by default as many as can be.
    protect, layers, copy
        See `DepthPruner`.
    ledger : path, optional
        File of evaluated masks.

    Attributes
    ----------
    removal_order_ : ndarray [max_remove]
        Sublayers in the order in which they were removed.

    References
    ----------
    Zhong et al., BlockPruner: Fine-grained Pruning for Large Language Models, 2024, arXiv 2406.10594, section 3.
    Departure: one sublayer of each kind of mixer stays, without which `generate` can't run (`transform` says so).
    """

    _granularity: ClassVar[Granularity] = "sublayer"

    def __init__(
        self,
        n_remove: int | float | None = None,
        *,
        max_remove: int | None = None,
        protect: Sequence[int] = (),
        layers: LayersArgument = None,
        copy: bool = True,
        ledger: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(n_remove, protect=protect, layers=layers, copy=copy)
        self.max_remove = max_remove
        self.ledger = ledger

    def _fit(self, inputs: FitInput) -> Outcome:
        steps = inputs.checked_max_remove(self.max_remove)
        with perplexity_game(inputs, self.ledger) as game:
            self.removal_order_ = greedy_order(game, inputs.removable, steps)
            return Outcome(game.n_evaluated, game.layer_runs, steps)

    def _select(self, n_remove: int) -> IntArray:
        return self.removal_order_[:n_remove]

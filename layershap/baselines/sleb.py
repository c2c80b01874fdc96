"""SLEB: remove one layer at a time, re-evaluating after each."""

from __future__ import annotations

import os
from collections.abc import Sequence

from layershap.baselines.base import DepthPruner, FitInput, Outcome
from layershap.baselines.perplexity import perplexity_game
from layershap.limits import check_int
from layershap.model.stack import LayersArgument
from layershap.protocols import IntArray
from layershap.selection.greedy import greedy_order


class SLEB(DepthPruner):
    """Greedy elimination: at each step, the layer whose removal from the model as it then is leaves the lowest
    perplexity. Removing n of L layers evaluates about n (L - n / 2) masked models.

    Parameters
    ----------
    n_remove : int or float, optional
        Layers that `transform` removes if it isn't told, or a fraction of them (0.25).
    early_barrier, latter_barrier : int, default=1
        First and last layers that are never candidates (the authors' code; 0 and 0 is plain greedy elimination).
    max_remove : int, optional
        Steps made by `fit`; by default as many as can be.
    protect, layers, copy
        See `DepthPruner`.
    ledger : path, optional
        File of evaluated masks.

    Attributes
    ----------
    removal_order_ : ndarray [max_remove]
        Layers in the order in which they were removed.

    References
    ----------
    Song et al., SLEB: Streamlining LLMs through Redundancy Verification and Elimination of Transformer Blocks, ICML
    2024, arXiv 2402.09025, algorithm 1 and metric 3; barriers as in the authors' ``sleb.py``. No departure but the
    calibration text (WikiText-2 there).
    """

    def __init__(
        self,
        n_remove: int | float | None = None,
        *,
        early_barrier: int = 1,
        latter_barrier: int = 1,
        max_remove: int | None = None,
        protect: Sequence[int] = (),
        layers: LayersArgument = None,
        copy: bool = True,
        ledger: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(n_remove, protect=protect, layers=layers, copy=copy)
        self.early_barrier = early_barrier
        self.latter_barrier = latter_barrier
        self.max_remove = max_remove
        self.ledger = ledger

    def _fit(self, inputs: FitInput) -> Outcome:
        n_layers = len(inputs.stack)
        for name in ("early_barrier", "latter_barrier"):
            check_int(name, getattr(self, name), 0)
        inputs.removable[: self.early_barrier] = False
        inputs.removable[max(0, n_layers - self.latter_barrier) :] = False
        inputs.check_some_removable(
            f"early_barrier={self.early_barrier}, latter_barrier={self.latter_barrier} and protect={self.protect!r}"
        )
        steps = inputs.checked_max_remove(self.max_remove)
        with perplexity_game(inputs, self.ledger) as game:
            self.removal_order_ = greedy_order(game, inputs.removable, steps)
            return Outcome(game.n_evaluated, game.layer_runs, steps)

    def _select(self, n_remove: int) -> IntArray:
        return self.removal_order_[:n_remove]

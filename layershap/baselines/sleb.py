"""SLEB: remove one layer at a time, re-evaluating after each."""

from __future__ import annotations

import os
from collections.abc import Sequence

from layershap.baselines.base import DepthPruner, FitInput, Outcome
from layershap.baselines.perplexity import perplexity_game
from layershap.compensation import Compensation
from layershap.limits import check_int
from layershap.model.stack import LayersArgument
from layershap.protocols import IntArray
from layershap.selection.greedy import greedy_order


class SLEB(DepthPruner):
    """Greedy elimination, each time of the layer whose removal leaves the lowest perplexity.

    Each step starts from the model without the layers removed before. Removing n of L layers evaluates about n (L - n /
    2) masked models.

    Parameters
    ----------
    n_remove : int or float, optional
        Number of layers that `transform` removes by default, or a fraction of all layers (0.25).
    early_barrier, latter_barrier : int, default=1
        Number of first and of last layers that are never removed (as in the authors' code; 0 and 0 is plain greedy
        elimination).
    max_remove : int, optional
        Number of steps that `fit` makes. By default as many as can be removed.
    protect : sequence of int, default=()
        Layers that are never removed. Layers that can't be removed alone are protected in any case.
    layers : str, sequence of nn.Module or LayerStack, optional
        Where the layers are, if the rule can't know (`layershap.find_layers`); or the layers, if found before.
    copy : bool, default=True
        True makes `transform` prune a deep copy; False, the model that it is given.
    compensation : Compensation, optional
        Change of the kept layers' weights by which `transform` makes up for the removed ones
        (`layershap.compensation`).
    ledger : path, optional
        Append-only file of evaluated masks, from which an interrupted fit resumes.

    Attributes
    ----------
    removal_order_ : ndarray [max_remove]
        Layers in the order in which they were removed.

    See Also
    --------
    layershap.Greedy : The same for any utility, as a selector of `LayerPruner`.
    BlockPruner : The same for sublayers.

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
        compensation: Compensation | None = None,
        ledger: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(n_remove, protect=protect, layers=layers, copy=copy, compensation=compensation)
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

"""Brute force: the best set for each number of layers, by evaluating all of them.

Shapes: M masks, L layers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from layershap.baselines.base import DepthPruner, FitInput, Outcome
from layershap.baselines.perplexity import perplexity_game
from layershap.compensation import Compensation
from layershap.model.stack import LayersArgument
from layershap.selection.best import best_of_size
from layershap.selection.exhaustive import all_sets, count_sets


class BruteForce(DepthPruner):
    """Evaluate every set of up to `max_remove` layers on the calibration text and keep the best of each size.

    Parameters
    ----------
    n_remove : int or float, optional
        Number of layers that `transform` removes by default, or a fraction of all layers (0.25).
    max_remove : int, optional
        Largest number of layers. By default as many as can be removed.
    max_masks : int, default=70000
        Maximum number of sets; a larger search raises a ValueError (2^16 is 65,536).
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
    best_sets_ : list of tuple of int
        The best set of n layers at index n - 1.
    best_nll_ : ndarray [max_remove]
        Mean NLL of the calibration text without each best set, in nats per token.

    See Also
    --------
    SLEB : Greedy elimination, at a small part of the cost.
    layershap.Exhaustive : The same search for any utility, as a selector of `LayerPruner`.
    """

    def __init__(
        self,
        n_remove: int | float | None = None,
        *,
        max_remove: int | None = None,
        max_masks: int = 70_000,
        protect: Sequence[int] = (),
        layers: LayersArgument = None,
        copy: bool = True,
        compensation: Compensation | None = None,
        ledger: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(n_remove, protect=protect, layers=layers, copy=copy, compensation=compensation)
        self.max_remove = max_remove
        self.max_masks = max_masks
        self.ledger = ledger

    def _fit(self, inputs: FitInput) -> Outcome:
        largest = inputs.checked_max_remove(self.max_remove)
        count_sets(int(inputs.removable.sum()), largest, max_masks=self.max_masks, owner="BruteForce")
        masks_ML = all_sets(inputs.removable, largest)
        with perplexity_game(inputs, self.ledger) as game:
            scores_M = game(masks_ML)
            outcome = Outcome(game.n_evaluated, game.layer_runs, largest)
        best = [best_of_size(masks_ML, scores_M, n, 1) for n in range(1, largest + 1)]
        self.best_sets_ = [tuple(np.flatnonzero(~masks_1L[0]).tolist()) for masks_1L, _ in best]
        self.best_nll_ = np.array([-scores_1[0] for _, scores_1 in best])
        return outcome

    def _select(self, n_remove: int) -> tuple[int, ...]:
        return self.best_sets_[n_remove - 1]

"""A fit of what ledgers hold, without the model: another surrogate or utility for masks that were paid for.

Shapes: M masks, L layers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from layershap.exceptions import LedgerError
from layershap.fitting.heldout import held_out
from layershap.fitting.values import ValueSettings, surrogate_values
from layershap.ledger import read_ledger
from layershap.protocols import FloatArray, MaskArray, Surrogate, Utility
from layershap.random_state import random_generator
from layershap.selection.best import best_sets, table_of_sets
from layershap.surrogates import HammingProcess
from layershap.surrogates.fresh import fresh_surrogate
from layershap.tables import Table


@dataclass(frozen=True)
class LedgerFit:
    """What a ledger's masks say; ``str()`` shows the sets.

    Attributes
    ----------
    masks, scores : ndarray [M, L], [M]
        Evaluated masks with finite scores.
    surrogate : Surrogate
        Fitted on them.
    held_out_r2 : float
        Agreement of its predictions with the scores of masks it had not seen, over folds.
    values : ndarray [L]
        The surrogate's values. They are read off the surrogate alone: a search chose many of the masks, so that nothing
        corrects them, as `LayerPruner.fit` would, and no error is stated.
    sets : dict of int to list of int
        By number of layers removed: the layers of the best evaluated set. It was chosen on the text that it is scored
        on, which flatters it.
    """

    masks: MaskArray
    scores: FloatArray
    surrogate: Surrogate
    held_out_r2: float
    values: FloatArray
    sets: dict[int, list[int]]

    def table(self) -> Table:
        """The best evaluated set of each size."""
        return table_of_sets(self.masks, self.scores)

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table().to_html()


def fit_from_ledger(
    ledger: str | os.PathLike[str],
    *,
    utility: Utility | None = None,
    surrogate: Surrogate | None = None,
    strata: tuple[int, ...] | None = None,
    random_state: int | None = 0,
) -> LedgerFit:
    """Fit a surrogate on the masks of a ledger, and name the best set of each size.

    Parameters
    ----------
    ledger : path
        File of a fit or game; of a fit whose text was in parts it is the first part's.
    utility : Utility, optional
        Score to fit, of those that read the statistics kept; by default `PerplexityRatio`, or a callable's own scores.
    surrogate : Surrogate, optional
        By default `HammingProcess`. It is cloned.
    strata : tuple of int, optional
        Numbers of kept layers to average marginal contributions over; by default all sizes alike (Shapley's weights).
    random_state : int or None, default=0
        Seed of the folds.

    Raises
    ------
    LedgerError
        The ledger can't be read, doesn't hold what the utility reads, or holds fewer than four masks.
    """
    recorded = read_ledger(ledger)
    scores_M = recorded.scores(utility)
    finite_M = np.isfinite(scores_M)
    masks_ML, scores_M = recorded.masks[finite_M], scores_M[finite_M]
    if len(masks_ML) < 4:
        raise LedgerError(f"a surrogate needs four masks with finite scores, the ledger holds {len(masks_ML)}")
    rng = random_generator(random_state)
    seed = int(rng.integers(2**31))
    model = HammingProcess() if surrogate is None else surrogate
    quality = held_out(model, masks_ML, scores_M, seed, np.ones(len(masks_ML), dtype=bool))
    fitted: Surrogate = fresh_surrogate(model, seed)
    fitted.fit(masks_ML, scores_M)
    settings = ValueSettings(strata, n_marginals=80_000, unbiased=False)
    values_L, _ = surrogate_values(fitted, masks_ML.shape[1], settings, rng)
    sets = {n: layers for n, layers in best_sets(masks_ML, scores_M).items() if 0 < n < masks_ML.shape[1]}
    return LedgerFit(masks_ML, scores_M, fitted, quality.r2, values_L, sets)

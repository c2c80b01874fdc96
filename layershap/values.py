"""From evaluated masks to a surrogate, its quality on held-out masks, and the layers' values.

Shapes: M masks, L layers (here the removable ones), G folds.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold

from layershap.exceptions import SurrogateQualityWarning
from layershap.protocols import ClosedFormSurrogate, FloatArray, MaskArray, Surrogate
from layershap.shapley import permutation, stratified_marginals
from layershap.surrogates.fresh import fresh_surrogate

Weights = Literal["strata", "shapley"]

_FOLDS = 5
_POOR_R2 = 0.5
_N_PERMUTATIONS = 2000


@dataclass(frozen=True)
class SurrogateFit:
    """A surrogate fitted on all masks, with what cross-validation says of it.

    Attributes
    ----------
    surrogate : Surrogate
        Fitted on all M masks.
    values : ndarray [L]
        Read from it.
    standard_errors : ndarray [L]
        Delete-a-group jackknife over the folds: how much the values depend on which masks were drawn.
    held_out_r2, held_out_spearman : float
        Of predictions for masks that the predicting surrogate had not seen.
    predictions : ndarray [M]
        Those predictions.
    """

    surrogate: Surrogate
    values: FloatArray
    standard_errors: FloatArray
    held_out_r2: float
    held_out_spearman: float
    predictions: FloatArray


def fit_surrogate(
    surrogate: Surrogate,
    masks_ML: MaskArray,
    scores_M: FloatArray,
    *,
    weights: Weights,
    strata: Sequence[int],
    n_marginals: int,
    rng: np.random.Generator,
) -> SurrogateFit:
    """Fit, cross-validate, and read the values.

    Parameters
    ----------
    surrogate : Surrogate
        Cloned, never changed.
    masks_ML, scores_M : ndarray [M, L], [M]
        Finite scores only.
    weights : {'strata', 'shapley'}
        Marginal contributions averaged over the strata's sizes (the paper), or over all sizes with Shapley's weights.
    strata : sequence of int
        Numbers of kept layers.
    n_marginals : int
        Sampled masks per layer for a surrogate without a closed form (the paper's Q = 80,000).
    rng : numpy.random.Generator
        Of folds, seeds and samples.

    Warns
    -----
    SurrogateQualityWarning
        Held-out R2 below 0.5.
    """
    seed = int(rng.integers(2**31))

    def fitted(rows: Any) -> Surrogate:
        fresh = fresh_surrogate(surrogate, seed)
        fresh.fit(masks_ML[rows], scores_M[rows])
        return fresh

    def values_of(model: Surrogate) -> FloatArray:
        # The same draws for every fold, so that their spread is not the sampling's.
        return surrogate_values(model, masks_ML.shape[1], weights, strata, n_marginals, np.random.default_rng(seed))

    predictions = np.empty(len(scores_M))
    fold_values = []
    for train, test in KFold(min(_FOLDS, len(scores_M)), shuffle=True, random_state=seed).split(masks_ML):
        model = fitted(train)
        predictions[test] = model.predict(masks_ML[test])
        fold_values.append(values_of(model))
    values_GL = np.array(fold_values)
    n_folds = len(values_GL)
    jackknife = np.sqrt((n_folds - 1) / n_folds * ((values_GL - values_GL.mean(axis=0)) ** 2).sum(axis=0))
    constant = float(np.ptp(scores_M)) == 0.0 or float(np.ptp(predictions)) == 0.0
    r2 = float(r2_score(scores_M, predictions)) if np.ptp(scores_M) > 0 else float("nan")
    spearman = float("nan") if constant else float(spearmanr(scores_M, predictions).statistic)
    if not r2 >= _POOR_R2:
        warnings.warn(
            f"the surrogate predicts held-out masks poorly (R2 {r2:.2f} on {len(scores_M)} masks), so the values read "
            "from it can't be trusted. Raise n_masks, or use another surrogate (PairwiseRidge needs far fewer masks "
            "than PaperMLP).",
            SurrogateQualityWarning,
            stacklevel=3,
        )
    final = fitted(slice(None))
    return SurrogateFit(final, values_of(final), jackknife, r2, spearman, predictions)


def surrogate_values(
    surrogate: Surrogate,
    n_layers: int,
    weights: Weights,
    strata: Sequence[int],
    n_marginals: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Values [L] of a fitted surrogate: in closed form if it knows them, else sampled in a few batched calls."""
    if isinstance(surrogate, ClosedFormSurrogate):
        return surrogate.shapley_values(strata if weights == "strata" else None)
    if weights == "strata":
        return stratified_marginals(surrogate.predict, n_layers, strata, n_marginals, rng).values
    return permutation(surrogate.predict, _N_PERMUTATIONS, rng=rng, n_players=n_layers).values

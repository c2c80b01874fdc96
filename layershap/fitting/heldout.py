"""How well a surrogate predicts masks it has not seen, in all and per number of kept layers; choice by that.

Shapes: M masks, L layers (here the removable ones).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold

from layershap.protocols import FloatArray, MaskArray, Surrogate
from layershap.surrogates import LinearRidge, PairwiseRidge, PaperMLP
from layershap.surrogates.fresh import fresh_surrogate

_FOLDS = 5


@dataclass(frozen=True)
class HeldOut:
    """Predictions for masks that the predicting surrogate had not seen, by cross-validation.

    Attributes
    ----------
    predictions : ndarray [M]
        One for each mask.
    surrogates : list of Surrogate
        One for each fold, fitted to the masks of the others.
    r2, spearman : float
        Over all masks; NaN where the scores or the predictions are constant.
    strata : list of dict
        For each number of kept layers: ``n_kept``, ``n_masks``, ``r2``, ``spearman``, and how well calibrated the
        predictions are: ``bias`` (mean of score - prediction) and ``slope`` (of score on prediction; 1 is perfect).
    """

    predictions: FloatArray
    surrogates: list[Surrogate]
    r2: float
    spearman: float
    strata: list[dict[str, float]]


def held_out(surrogate: Surrogate, masks_ML: MaskArray, scores_M: FloatArray, seed: int) -> HeldOut:
    """Cross-validate over five folds of distinct masks: a mask drawn twice is never on both sides."""
    _, mask_M = np.unique(masks_ML, axis=0, return_inverse=True)
    mask_M = mask_M.reshape(-1)
    n_distinct = int(mask_M.max()) + 1
    predictions = np.empty(len(scores_M))
    surrogates = []
    for _, test in KFold(min(_FOLDS, n_distinct), shuffle=True, random_state=seed).split(np.arange(n_distinct)):
        unseen_M = np.isin(mask_M, test)
        model = fresh_surrogate(surrogate, seed)
        model.fit(masks_ML[~unseen_M], scores_M[~unseen_M])
        predictions[unseen_M] = model.predict(masks_ML[unseen_M])
        surrogates.append(model)
    kept_M = masks_ML.sum(axis=1)
    strata = []
    for kept in np.unique(kept_M):
        truth, guess = scores_M[kept_M == kept], predictions[kept_M == kept]
        r2, spearman = _quality(truth, guess)
        slope = float(np.polyfit(guess, truth, 1)[0]) if len(truth) > 2 and np.ptp(guess) > 0 else float("nan")
        strata.append(
            {
                "n_kept": int(kept),
                "n_masks": len(truth),
                "r2": r2,
                "spearman": spearman,
                "bias": float((truth - guess).mean()),
                "slope": slope,
            }
        )
    return HeldOut(predictions, surrogates, *_quality(scores_M, predictions), strata)


def choose_surrogate(
    masks_ML: MaskArray, scores_M: FloatArray, seed: int, candidates: Sequence[Surrogate] | None = None
) -> tuple[Surrogate, dict[str, float]]:
    """The candidate with the highest held-out R2, and everyone's R2 by class name (numbered where a class comes twice).

    By default among `LinearRidge`, `PairwiseRidge` and `PaperMLP`. Ties go to the first, that is, the simplest.
    """
    among: list[Surrogate] = [LinearRidge(), PairwiseRidge(), PaperMLP()] if candidates is None else list(candidates)
    r2 = [held_out(candidate, masks_ML, scores_M, seed).r2 for candidate in among]
    best = among[int(np.argmax(np.nan_to_num(r2, nan=-np.inf)))]
    classes = [type(candidate).__name__ for candidate in among]
    names = [f"{c}-{classes[: i + 1].count(c)}" if classes.count(c) > 1 else c for i, c in enumerate(classes)]
    return best, dict(zip(names, r2, strict=True))


def _quality(scores: FloatArray, predictions: FloatArray) -> tuple[float, float]:
    """R2 and Spearman's rank correlation; NaN where they are not defined."""
    if len(scores) < 2 or np.ptp(scores) == 0:
        return float("nan"), float("nan")
    r2 = float(r2_score(scores, predictions))
    return r2, float("nan") if np.ptp(predictions) == 0 else float(spearmanr(scores, predictions).statistic)

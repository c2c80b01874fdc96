"""How well a surrogate predicts masks it has not seen, in all and per number of kept layers; choice by that.

Shapes: M masks, L layers (here the removable ones).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import r2_score

from layershap.protocols import FloatArray, IntArray, MaskArray, Surrogate
from layershap.surrogates.folds import cross_fitted

_POOR_R2 = 0.5


@dataclass(frozen=True)
class HeldOut:
    """Predictions for masks that the predicting surrogate had not seen, by cross-validation.

    Attributes
    ----------
    predictions : ndarray [M]
        One for each mask: by the fold that did not see it, or by the mean of all folds where all saw it.
    judged : ndarray [M] of bool
        Which masks were held out, and the quality is measured on.
    of_all_folds : ndarray [M]
        Mean predictions of all folds' surrogates.
    surrogates : list of Surrogate
        One for each fold, fitted to the masks of the others.
    r2, spearman : float
        Over all masks; NaN where the scores or the predictions are constant.
    strata : list of dict
        For each number of kept layers: ``n_kept``, ``n_masks``, ``r2``, ``spearman``, and how well calibrated the
        predictions are: ``bias`` (mean of score - prediction), ``rmse`` (root mean square of the same) and ``slope``
        (of score on prediction; 1 is perfect).
    """

    predictions: FloatArray
    judged: MaskArray
    of_all_folds: FloatArray
    surrogates: list[Surrogate]
    r2: float
    spearman: float
    strata: list[dict[str, float]]

    @property
    def is_poor(self) -> bool:
        """Whether the surrogate explains less than half of the scores' variance, or that is not known."""
        return not self.r2 >= _POOR_R2


def held_out(
    surrogate: Surrogate, masks_ML: MaskArray, scores_M: FloatArray, seed: int, judged: MaskArray | None = None
) -> HeldOut:
    """Cross-validate over five folds of distinct masks: a mask drawn twice is never on both sides.

    Parameters
    ----------
    surrogate : Surrogate
        Cloned for each fold.
    masks_ML, scores_M : ndarray [M, L], [M]
        Finite scores.
    seed : int
        Seed of folds and surrogates.
    judged : ndarray [M] of bool, optional
        Which masks are held out in turn, and the quality is measured on: those drawn at random. The others are in every
        fold's fit. By default all.
    """
    judged_M = np.ones(len(scores_M), dtype=bool) if judged is None or not judged.any() else judged
    predictions_GM = []
    unseen_GM = []
    surrogates = []
    for unseen_M, model, found_M in cross_fitted(surrogate, masks_ML, scores_M, judged_M, seed):
        predictions_GM.append(found_M)
        unseen_GM.append(unseen_M)
        surrogates.append(model)
    # A mask that is held out is predicted by the fold that did not see it, the others by all folds' mean.
    of_all_folds = np.mean(predictions_GM, axis=0)
    predictions = of_all_folds.copy()
    for predicted_M, unseen_M in zip(predictions_GM, unseen_GM, strict=True):
        predictions[unseen_M] = predicted_M[unseen_M]
    scores, guesses = scores_M[judged_M], predictions[judged_M]
    strata = _by_stratum(masks_ML[judged_M].sum(axis=1), scores, guesses)
    return HeldOut(predictions, judged_M, of_all_folds, surrogates, *_quality(scores, guesses), strata)


def _by_stratum(kept_M: IntArray, scores: FloatArray, guesses: FloatArray) -> list[dict[str, float]]:
    """The quality of predictions for each number of kept layers."""
    strata: list[dict[str, float]] = []
    for kept in np.unique(kept_M):
        truth, guess = scores[kept_M == kept], guesses[kept_M == kept]
        r2, spearman = _quality(truth, guess)
        slope = float(np.polyfit(guess, truth, 1)[0]) if len(truth) > 2 and np.ptp(guess) > 0 else float("nan")
        strata.append(
            {
                "n_kept": int(kept),
                "n_masks": len(truth),
                "r2": r2,
                "spearman": spearman,
                "bias": float((truth - guess).mean()),
                "rmse": float(np.sqrt(((truth - guess) ** 2).mean())),
                "slope": slope,
            }
        )
    return strata


def _quality(scores: FloatArray, predictions: FloatArray) -> tuple[float, float]:
    """R2 and Spearman's rank correlation; NaN where they are not defined."""
    if len(scores) < 2 or np.ptp(scores) == 0:
        return float("nan"), float("nan")
    r2 = float(r2_score(scores, predictions))
    return r2, float("nan") if np.ptp(predictions) == 0 else float(spearmanr(scores, predictions).statistic)

"""Cross-validation of a surrogate over distinct masks.

Shapes: M masks, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold

from layershap.masks import groups
from layershap.protocols import FloatArray, MaskArray, Surrogate
from layershap.shapley import SampledMasks, Semivalue
from layershap.surrogates.fresh import fresh_surrogate

N_FOLDS = 5


def unseen_masks(masks_ML: MaskArray, judged_M: MaskArray, seed: int) -> Iterator[MaskArray]:
    """For each fold which masks it must not see [M]: a mask drawn twice is never on both sides.

    Parameters
    ----------
    masks_ML : ndarray [M, L]
        Repetitions allowed.
    judged_M : ndarray [M] of bool
        Which masks are held out in turn; the others are in every fold's fit.
    seed : int
        Seed of the folds.
    """
    mask_M = groups(masks_ML)
    judged = np.unique(mask_M[judged_M])
    n_folds = min(N_FOLDS, len(judged))
    folds = KFold(n_folds, shuffle=True, random_state=seed).split(judged) if n_folds > 1 else [((), ())]
    for _, test in folds:
        yield np.isin(mask_M, judged[list(test)]) & judged_M


def cross_fitted(
    surrogate: Surrogate, masks_ML: MaskArray, scores_M: FloatArray, judged_M: MaskArray, seed: int
) -> Iterator[tuple[MaskArray, Surrogate, FloatArray]]:
    """For each fold the masks that it did not see [M], the surrogate fitted to the others, and its predictions [M].

    Raises
    ------
    TypeError
        The surrogate doesn't predict one number for each mask.
    """
    for unseen_M in unseen_masks(masks_ML, judged_M, seed):
        model: Surrogate = fresh_surrogate(surrogate, seed)
        model.fit(masks_ML[~unseen_M], scores_M[~unseen_M])
        found_M = np.asarray(model.predict(masks_ML), dtype=np.float64)
        if found_M.shape != scores_M.shape:
            raise TypeError(
                f"a surrogate must predict one number for each mask; {type(surrogate).__name__} predicts "
                f"{list(found_M.shape)} for {len(scores_M)} masks"
            )
        yield unseen_M, model, found_M


def held_out_r2(surrogate: Surrogate, masks_ML: MaskArray, scores_M: FloatArray, seed: int) -> float:
    """R2 on masks that the surrogate had not seen; NaN where it is not defined, -inf where no prediction is.

    Parameters
    ----------
    surrogate : Surrogate
        Cloned for each fold.
    masks_ML, scores_M : ndarray [M, L], [M]
        Finite scores.
    seed : int
        Seed of the folds, and of a surrogate that is random and has no seed.

    Raises
    ------
    TypeError
        The surrogate doesn't predict one number for each mask.
    """
    at_random_M = SampledMasks(masks_ML, Semivalue.shapley(masks_ML.shape[1])).at_random
    judged_M = at_random_M if at_random_M.any() else np.ones(len(masks_ML), dtype=bool)
    predictions_M = np.full(len(scores_M), np.nan)
    for unseen_M, _, found_M in cross_fitted(surrogate, masks_ML, scores_M, judged_M, seed):
        predicted_M = unseen_M if unseen_M.any() else judged_M  # a single mask has nothing to be held out from
        predictions_M[predicted_M] = found_M[predicted_M]
    truth, guesses = scores_M[judged_M], predictions_M[judged_M]
    if len(truth) < 2 or np.ptp(truth) == 0:
        return float("nan")
    if not np.isfinite(guesses).all():
        return -float("inf")
    return float(r2_score(truth, guesses))

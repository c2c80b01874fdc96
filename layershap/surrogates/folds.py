"""Cross-validation of a surrogate over distinct masks.

Shapes: M masks, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

import numpy as np
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold

from layershap.masks import distinct, groups
from layershap.protocols import FloatArray, MaskArray, Surrogate
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


def drawn_at_random(masks_ML: MaskArray) -> MaskArray:
    """Which masks are of a size that is not there as a whole [M]; all, where every size is.

    The leave-one-outs, say, which are always all there: nobody needs them predicted.
    """
    size_M = masks_ML.sum(axis=1)
    n_layers = masks_ML.shape[1]
    whole = [k for k in np.unique(size_M) if len(distinct(masks_ML[size_M == k])) == comb(n_layers, int(k))]
    at_random_M = ~np.isin(size_M, whole)
    return at_random_M if at_random_M.any() else np.ones(len(masks_ML), dtype=bool)


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
    judged_M = drawn_at_random(masks_ML)
    predictions_M = np.full(len(scores_M), np.nan)
    for unseen_M in unseen_masks(masks_ML, judged_M, seed):
        model = fresh_surrogate(surrogate, seed)
        model.fit(masks_ML[~unseen_M], scores_M[~unseen_M])
        predicted_M = unseen_M if unseen_M.any() else judged_M  # a single mask has nothing to be held out from
        found_M = np.asarray(model.predict(masks_ML), dtype=np.float64)
        if found_M.shape != scores_M.shape:
            raise TypeError(
                f"a surrogate must predict one number for each mask; {type(surrogate).__name__} predicts "
                f"{list(found_M.shape)} for {len(scores_M)} masks"
            )
        predictions_M[predicted_M] = found_M[predicted_M]
    truth, guesses = scores_M[judged_M], predictions_M[judged_M]
    if len(truth) < 2 or np.ptp(truth) == 0:
        return float("nan")
    if not np.isfinite(guesses).all():
        return -float("inf")
    return float(r2_score(truth, guesses))

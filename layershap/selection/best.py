"""The best evaluated set of a size.

Shapes: M masks, L layers (or players). True = layer kept.
"""

from __future__ import annotations

import numpy as np

from layershap.protocols import FloatArray, MaskArray


def best_evaluated(masks_ML: MaskArray, scores_M: FloatArray, n_remove: int) -> MaskArray | None:
    """The evaluated mask [L] with the highest finite score among those that lack `n_remove` layers; None without one.

    Ties go to the mask evaluated first.
    """
    eligible = np.flatnonzero(((~masks_ML).sum(axis=1) == n_remove) & np.isfinite(scores_M))
    return masks_ML[eligible[np.argmax(scores_M[eligible])]] if len(eligible) else None


def best_score(masks_ML: MaskArray, scores_M: FloatArray, n_remove: int) -> float:
    """The highest finite score among the evaluated masks that lack `n_remove` layers; -inf without one."""
    of_size = (~masks_ML).sum(axis=1) == n_remove
    return float(finite_or_worst(scores_M[of_size]).max(initial=-np.inf))


def finite_or_worst(scores: FloatArray) -> FloatArray:
    """Scores with -inf for what is not finite."""
    return np.where(np.isfinite(scores), scores, -np.inf)

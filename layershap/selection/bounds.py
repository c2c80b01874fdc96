"""What evaluated sets say about sets not yet evaluated, if removing one more layer seldom raises the score.

Shapes: P players, M evaluated masks, N other masks. True = layer kept.
"""

from __future__ import annotations

import numpy as np

from layershap.protocols import FloatArray, MaskArray


def upper_bounds(masks_NP: MaskArray, evaluated_MP: MaskArray, scores_M: FloatArray) -> FloatArray:
    """For each mask, the lowest score among the evaluated masks whose removals it contains, plus `largest_rise` [N].

    For a game in which removing one more layer never raises the score this is an upper bound; the largest rise seen
    so far is the allowance for games in which it does.
    """
    scores_M = np.where(np.isfinite(scores_M), scores_M, -np.inf)
    contained_NM = _contains(masks_NP, evaluated_MP)
    lowest_N = np.where(contained_NM, scores_M[None], np.inf).min(axis=1, initial=np.inf)
    return lowest_N + largest_rise(evaluated_MP, scores_M)


def largest_rise(evaluated_MP: MaskArray, scores_M: FloatArray) -> float:
    """The most by which an evaluated mask outscores another whose removals it contains; 0 if none does."""
    finite = np.isfinite(scores_M)
    masks, scores = evaluated_MP[finite], scores_M[finite]
    rises = np.where(_contains(masks, masks), scores[:, None] - scores[None, :], 0.0)
    return float(rises.max(initial=0.0))


def _contains(masks_NP: MaskArray, evaluated_MP: MaskArray) -> MaskArray:
    """[N, M]: whether mask n lacks every layer that evaluated mask m lacks."""
    return masks_NP.astype(np.float32) @ (~evaluated_MP).T.astype(np.float32) == 0

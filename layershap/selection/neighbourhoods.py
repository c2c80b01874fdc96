"""The sets that a surrogate likes best: of all sets, and of those near good ones.

Shapes: P players (removable layers), N masks returned, W beam width. True = layer kept.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np

from layershap.masks import children, distinct, subsets, swaps
from layershap.protocols import FloatArray, MaskArray

Predict = Callable[[MaskArray], FloatArray]

EXHAUSTIVE_SETS = 20_000
"""Up to so many sets of one size a surrogate ranks them all; beyond, a beam and swaps find the best."""

_SWAP_ROUNDS = 4


def best_predicted(predict: Predict, free_P: MaskArray, max_remove: int, width: int) -> dict[int, MaskArray]:
    """For each number of layers removed, up to `width` sets that the surrogate predicts to be best, best first.

    Exact where a size has at most `EXHAUSTIVE_SETS` sets; else a beam over the sizes, then swaps of its best few.
    """
    found: dict[int, MaskArray] = {}
    front = np.ones((1, len(free_P)), dtype=bool)
    for n_remove in range(1, max_remove + 1):
        if comb(int(free_P.sum()), n_remove) <= EXHAUSTIVE_SETS:
            front = top(predict, subsets(free_P, n_remove), width)
        else:
            front = top(predict, np.concatenate([children(mask_P, free_P) for mask_P in front]), width)
            front = improved_by_swaps(predict, front, free_P, width)
        found[n_remove] = front
    return found


def improved_by_swaps(predict: Predict, masks_NP: MaskArray, free_P: MaskArray, width: int) -> MaskArray:
    """The best of these sets and of what swaps make of the best few, until swaps find nothing better."""
    best = masks_NP[:1]
    for _ in range(_SWAP_ROUNDS):
        around = [swaps(mask_P, free_P) for mask_P in masks_NP[: max(1, width // 8)]]
        masks_NP = top(predict, np.concatenate([masks_NP, *around]), width)
        if np.array_equal(masks_NP[:1], best):
            break
        best = masks_NP[:1]
    return masks_NP


def top(predict: Predict, masks_NP: MaskArray, width: int) -> MaskArray:
    """The `width` distinct masks with the highest predictions, best first; ties in lexicographic order."""
    unique_NP = distinct(masks_NP)
    return unique_NP[np.argsort(-predict(unique_NP), kind="stable")[:width]] if len(unique_NP) else unique_NP

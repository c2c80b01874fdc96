"""Arithmetic of masks that several rooms need.

Shapes: M masks, L layers, U distinct masks. True = layer kept.
"""

from __future__ import annotations

import numpy as np

from layershap.protocols import IntArray, MaskArray


def distinct(masks_ML: MaskArray) -> MaskArray:
    """The distinct masks in lexicographic order [U, L]."""
    return masks_ML[_grouped(masks_ML)[0]]


def first_rows(masks_ML: MaskArray) -> IntArray:
    """Where each distinct mask stands first [U], in ascending order."""
    return np.sort(_grouped(masks_ML)[0])


def groups(masks_ML: MaskArray) -> IntArray:
    """For each mask its place among the distinct ones in lexicographic order [M]."""
    return _grouped(masks_ML)[1]


def _grouped(masks_ML: MaskArray) -> tuple[IntArray, IntArray]:
    """The first row of each distinct mask, in lexicographic order [U], and the group of each row [M]."""
    # Not np.unique(axis=0), which turns a Ctrl-C inside its sorting into a TypeError.
    n_masks, n_layers = masks_ML.shape
    # Without a column there is nothing to sort by, and all rows are the same.
    order_M = np.lexsort(masks_ML.T[::-1]) if n_layers else np.arange(n_masks)
    sorted_ML = masks_ML[order_M]
    starts_M = np.ones(n_masks, dtype=bool)
    starts_M[1:] = (sorted_ML[1:] != sorted_ML[:-1]).any(axis=1)
    group_M = np.empty(n_masks, dtype=np.int64)
    group_M[order_M] = np.cumsum(starts_M) - 1
    return order_M[starts_M].astype(np.int64), group_M

"""Mask algebra: how masks are told apart, which lie near a mask, and which stand for sets that a model can lose.

Pure NumPy; knows nothing of models, games or scores.

Shapes: M masks, L layers, P players (removable layers), U distinct masks, N masks returned. True = layer kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import combinations
from math import comb

import numpy as np

from layershap.arrays import IntArray, MaskArray


def mask_key(mask_L: MaskArray) -> bytes:
    """A mask as a dictionary key. Keys of masks over different numbers of layers must not be mixed."""
    return np.packbits(mask_L).tobytes()


def mask_keys(masks_ML: MaskArray) -> list[bytes]:
    """The `mask_key` of each mask."""
    return [packed.tobytes() for packed in np.packbits(masks_ML, axis=1)]


def is_among(masks_ML: MaskArray, keys: Collection[bytes]) -> MaskArray:
    """Whether each mask's key is among these [M]."""
    return np.array([key in keys for key in mask_keys(masks_ML)], dtype=bool)


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


def without(removed: Collection[int] | IntArray, n_layers: int) -> MaskArray:
    """The mask that lacks these layers [L]."""
    mask_L = np.ones(n_layers, dtype=bool)
    mask_L[list(removed)] = False
    return mask_L


def leave_one_out_masks(n_layers: int) -> MaskArray:
    """The masks that lack one layer, the first layer's first [L, L]."""
    return ~np.eye(n_layers, dtype=bool)


def children(mask_P: MaskArray, free_P: MaskArray) -> MaskArray:
    """The sets with one more free layer removed [N, P], in the order of the layers."""
    layers = np.flatnonzero(mask_P & free_P)
    masks_NP = np.repeat(mask_P[None], len(layers), axis=0)
    masks_NP[np.arange(len(layers)), layers] = False
    return masks_NP


def parents(mask_P: MaskArray, free_P: MaskArray) -> MaskArray:
    """The sets with one removed layer put back [N, P], in the order of the layers."""
    layers = np.flatnonzero(~mask_P & free_P)
    masks_NP = np.repeat(mask_P[None], len(layers), axis=0)
    masks_NP[np.arange(len(layers)), layers] = True
    return masks_NP


def swaps(mask_P: MaskArray, free_P: MaskArray) -> MaskArray:
    """The sets with one removed layer put back and one free layer removed instead [N, P]."""
    removed, kept = np.flatnonzero(~mask_P), np.flatnonzero(mask_P & free_P)
    masks_NP = np.repeat(mask_P[None], len(removed) * len(kept), axis=0)
    rows = np.arange(len(masks_NP))
    masks_NP[rows, np.repeat(removed, len(kept))] = True
    masks_NP[rows, np.tile(kept, len(removed))] = False
    return masks_NP


def subsets(free_P: MaskArray, n_remove: int) -> MaskArray:
    """All sets of `n_remove` free layers [C(free, n), P], in lexicographic order of the layers removed."""
    layers = np.flatnonzero(free_P)
    n_sets = comb(len(layers), n_remove)
    chosen = np.array(list(combinations(layers, n_remove)), dtype=np.int64).reshape(n_sets, n_remove)
    masks_NP = np.ones((len(chosen), len(free_P)), dtype=bool)
    masks_NP[np.arange(len(chosen))[:, None], chosen] = False
    return masks_NP


def over_layers(masks_NP: MaskArray, removable: MaskArray) -> MaskArray:
    """Masks over all layers [N, L] from masks over the removable ones [N, P]; the others are kept."""
    full_NL = np.ones((len(masks_NP), len(removable)), dtype=bool)
    full_NL[:, removable] = masks_NP
    return full_NL


def allowed(masks_ML: MaskArray, keep_one_of: Iterable[Sequence[int]]) -> MaskArray:
    """Which masks stand for sets that the model can lose [M]: a layer stays, and one of each group."""
    groups = [masks_ML[:, list(group)].any(axis=1) for group in keep_one_of]
    return np.all([masks_ML.any(axis=1), *groups], axis=0)

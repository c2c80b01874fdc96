"""Distinct masks in shares per stratum.

Shapes: L layers, M masks. True = layer kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import comb

import numpy as np

from layershap.masks import is_among, mask_key, mask_keys, subsets
from layershap.protocols import MaskArray
from layershap.shapley import sample_strata

_ENUMERABLE = 100_000


def draw_distinct(
    n_layers: int, weights: Mapping[int, float], n_masks: int, rng: np.random.Generator, taken: MaskArray
) -> MaskArray:
    """Draw masks that all differ from each other and from those taken.

    Parameters
    ----------
    n_layers : int
        Number of layers L.
    weights : mapping of int to float
        Relative share of each number of kept layers. Masks that an exhausted stratum can't supply go to the others.
    n_masks : int
        Number of masks asked for.
    rng : numpy.random.Generator
        Source of randomness for the masks.
    taken : ndarray [T, L] of bool
        Masks not to draw.

    Returns
    -------
    ndarray [M, L] of bool
        Masks, True = layer kept. M is smaller than `n_masks` only if the strata hold no more.
    """
    strata = sorted((k for k, weight in weights.items() if weight > 0), reverse=True)
    known = set(mask_keys(taken))
    taken_sizes = taken.sum(axis=1)
    room = {k: comb(n_layers, k) - int((taken_sizes == k).sum()) for k in strata}
    share = dict.fromkeys(strata, 0)
    left = max(n_masks, 0)
    while left > 0 and (open_strata := [k for k in strata if share[k] < room[k]]):
        total = sum(weights[k] for k in open_strata)
        for k in open_strata:
            step = max(1, int(left * weights[k] / total))
            share[k] += min(step, room[k] - share[k], n_masks - sum(share.values()))
        left = n_masks - sum(share.values())
    masks: list[MaskArray] = []
    for k in strata:
        masks.extend(_draw(n_layers, k, share[k], rng, known))
    return np.array(masks, dtype=bool).reshape(-1, n_layers)


def _draw(n_layers: int, size: int, count: int, rng: np.random.Generator, known: set[bytes]) -> list[MaskArray]:
    total = comb(n_layers, size)
    if total <= _ENUMERABLE and 2 * (count + len(known)) >= total:
        every = ~subsets(np.ones(n_layers, dtype=bool), size)  # sets of kept layers in place of removed ones
        fresh = every[~is_among(every, known)]
        return list(fresh[rng.permutation(len(fresh))[:count]])
    drawn: list[MaskArray] = []
    while len(drawn) < count:
        for mask in sample_strata(n_layers, [size], count - len(drawn), rng):
            if (key := mask_key(mask)) not in known:
                known.add(key)
                drawn.append(mask)
    return drawn

"""Masks in pairs that remove different layers.

Shapes: L layers, M masks. True = layer kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.base import BaseEstimator

from layershap.protocols import MaskArray
from layershap.samplers.stratified import strata_sizes


class AntitheticSampler(BaseEstimator):
    """Stratified masks in pairs of the same size whose removed layers overlap as little as they can.

    Of a random order of the layers, the first mask lacks the first n and the second the last n. So every layer is
    removed about equally often, and what one mask owes to the layers it lost, the other doesn't: the error of a mean
    over the pair is smaller than over two independent draws. (The complement of a mask, the usual antithetic pair,
    would be a hopeless model here: it keeps the few layers that the first one lacks.)

    Parameters
    ----------
    strata : sequence of int or float, optional
        Kept layers (ints) or fractions of L (floats). By default the paper's.

    References
    ----------
    Mitchell et al., Sampling permutations for Shapley value estimation, 2022 (antithetic draws).
    """

    uniform_within_sizes = True

    def __init__(self, strata: Sequence[int] | Sequence[float] | None = None) -> None:
        self.strata = strata

    def sample(self, n_layers: int, n_masks: int, rng: np.random.Generator) -> MaskArray:
        """Masks [M, L] with M = n_masks; rows 2j and 2j + 1 are a pair. Masks may repeat."""
        sizes = strata_sizes(self.strata, n_layers)
        n_pairs = -(-n_masks // 2)
        kept_J = np.array([sizes[j % len(sizes)] for j in range(n_pairs)], dtype=np.int64)
        rank_JL = rng.random((n_pairs, n_layers)).argsort(axis=1).argsort(axis=1)
        first_JL = rank_JL >= (n_layers - kept_J)[:, None]
        second_JL = rank_JL < kept_J[:, None]
        return np.stack([first_JL, second_JL], axis=1).reshape(-1, n_layers)[:n_masks]

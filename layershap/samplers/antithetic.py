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

    In a random order of the layers, the first mask of a pair lacks the first n layers and the second mask the last n.
    So every layer is removed about equally often, and the error of a mean over the pair is smaller than over two
    independent masks. (The complement of a mask, the usual antithetic pair, would ruin the model here: it keeps only
    the few layers that the mask lacks.)

    Parameters
    ----------
    strata : sequence of int or float, optional
        Numbers of kept layers (ints) or fractions of L (floats). By default the paper's fractions.

    See Also
    --------
    StratifiedSampler : Independent or distinct masks.

    References
    ----------
    Mitchell et al., Sampling permutations for Shapley value estimation, 2022 (antithetic draws).
    """

    uniform_within_sizes = True

    def __init__(self, strata: Sequence[int] | Sequence[float] | None = None) -> None:
        self.strata = strata

    def sample(self, n_layers: int, n_masks: int, rng: np.random.Generator) -> MaskArray:
        """Draw pairs of masks.

        Parameters
        ----------
        n_layers : int
            Number of layers L to draw over.
        n_masks : int
            Number of masks.
        rng : numpy.random.Generator
            Source of randomness.

        Returns
        -------
        ndarray [n_masks, L] of bool
            Masks, True = layer kept; rows 2j and 2j + 1 are a pair. Masks may repeat.
        """
        sizes = strata_sizes(self.strata, n_layers)
        n_pairs = -(-n_masks // 2)
        kept_J = np.array([sizes[j % len(sizes)] for j in range(n_pairs)], dtype=np.int64)
        rank_JL = rng.random((n_pairs, n_layers)).argsort(axis=1).argsort(axis=1)
        first_JL = rank_JL >= (n_layers - kept_J)[:, None]
        second_JL = rank_JL < kept_J[:, None]
        return np.stack([first_JL, second_JL], axis=1).reshape(-1, n_layers)[:n_masks]

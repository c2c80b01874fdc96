"""All small sets of removed layers.

Shapes: L layers, M masks. True = layer kept.
"""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
from sklearn.base import BaseEstimator

from layershap.protocols import MaskArray


class SubsetSampler(BaseEstimator):
    """All masks that lack 1 to `max_removed` layers, smaller sets first: every main effect, every pair, ...

    Parameters
    ----------
    max_removed : int, default=2
        Largest number of removed layers.

    See Also
    --------
    StratifiedSampler : Random masks of larger sets, from which `LayerPruner` estimates values.
    layershap.Exhaustive : Evaluates all sets of up to a given size and chooses the best.
    """

    uniform_within_sizes = True

    def __init__(self, max_removed: int = 2) -> None:
        self.max_removed = max_removed

    def sample(self, n_layers: int, n_masks: int, rng: np.random.Generator) -> MaskArray:
        """Enumerate masks, smaller sets first.

        Parameters
        ----------
        n_layers : int
            Number of layers L.
        n_masks : int
            Maximum number of masks.
        rng : numpy.random.Generator
            Source of randomness for the size that `n_masks` cuts through, of which random masks are taken.

        Returns
        -------
        ndarray [M, L] of bool
            Masks, True = layer kept.

        Raises
        ------
        ValueError
            `max_removed` outside [1, L].
        """
        if not 1 <= self.max_removed <= n_layers:
            raise ValueError(f"max_removed must lie in [1, {n_layers}], got {self.max_removed}")
        parts: list[MaskArray] = []
        left = n_masks
        for size in range(1, self.max_removed + 1):
            chosen = np.arange(comb(n_layers, size))
            if len(chosen) > left:
                chosen = np.sort(rng.permutation(chosen)[:left])
            removed = np.array(list(combinations(range(n_layers), size)))[chosen]
            masks = np.ones((len(removed), n_layers), dtype=bool)
            masks[np.arange(len(removed))[:, None], removed] = False
            parts.append(masks)
            left -= len(masks)
            if left <= 0:  # To list the larger sets, only to drop them, would take seconds.
                break
        return np.concatenate(parts)

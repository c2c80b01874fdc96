"""All small sets of removed layers.

Shapes: L layers, M masks. True = layer kept.
"""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator

from layershap.limits import check_int
from layershap.masks import subsets
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
        check_int("max_removed", self.max_removed, 1, n_layers)
        parts: list[MaskArray] = []
        left = n_masks
        for size in range(1, self.max_removed + 1):
            masks = subsets(np.ones(n_layers, dtype=bool), size)
            if len(masks) > left:
                masks = masks[np.sort(rng.permutation(len(masks))[:left])]
            parts.append(masks)
            left -= len(masks)
            if left <= 0:  # To list the larger sets, only to drop them, would take seconds.
                break
        return np.concatenate(parts)

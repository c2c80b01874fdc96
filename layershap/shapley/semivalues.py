"""Semivalues: a player's marginal contribution, averaged over coalitions with weights that depend on their size.

Shapley's value and the paper's average over strata are two of them. Both are sums of mean scores: of the coalitions of
each size that hold the player, minus of those that don't.

Shapes: L layers (players), M masks, K = L + 1 coalition sizes. True = layer kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layershap.protocols import FloatArray, IntArray, MaskArray


@dataclass(frozen=True)
class Semivalue:
    """``phi_i = sum_k kept[k] E[v | |S| = k, i in S] - lost[k] E[v | |S| = k, i not in S]``.

    Attributes
    ----------
    kept, lost : ndarray [K]
        Weights of the mean scores of coalitions of k = 0 .. L players with the player, and without it. Each sums to 1.

    References
    ----------
    Dubey, Neyman & Weber, Value theory without efficiency, 1981.
    """

    kept: FloatArray
    lost: FloatArray

    @classmethod
    def shapley(cls, n_players: int) -> Semivalue:
        """Shapley's semivalue of `n_players` players: a player joins coalitions of 0 to L - 1 with the same weight per
        size.
        """
        kept, lost = np.full(n_players + 1, 1 / n_players), np.full(n_players + 1, 1 / n_players)
        kept[0] = lost[-1] = 0.0
        return cls(kept, lost)

    @classmethod
    def of_strata(cls, n_players: int, strata: Sequence[int]) -> Semivalue:
        """The paper's semivalue: ``v(m with i) - v(m without i)`` averaged over the masks m of the sizes in `strata`.

        The sizes, of `n_players` players, are equally weighted. A mask of size k holds the player with probability k /
        L; its two scores are then of sizes k and k - 1, else of sizes k + 1 and k.

        Raises
        ------
        ValueError
            No strata, or sizes outside [0, L].

        References
        ----------
        Pruning as a Cooperative Game, arXiv 2602.07804, section 3.
        """
        sizes = [int(size) for size in strata]
        if not sizes or any(not 0 <= size <= n_players for size in sizes):
            raise ValueError(f"strata must be numbers of kept layers in [0, {n_players}], got {list(strata)}")
        kept, lost = np.zeros(n_players + 1), np.zeros(n_players + 1)
        for size in sizes:
            inside = size / n_players / len(sizes)
            outside = (n_players - size) / n_players / len(sizes)
            if inside > 0:
                kept[size] += inside
                lost[size - 1] += inside
            if outside > 0:
                kept[size + 1] += outside
                lost[size] += outside
        return cls(kept, lost)

    @property
    def n_players(self) -> int:
        """Number of players L."""
        return len(self.kept) - 1

    @property
    def sizes(self) -> IntArray:
        """The coalition sizes that enter."""
        return np.flatnonzero((self.kept > 0) | (self.lost > 0))

    @property
    def spread(self) -> FloatArray:
        """How much a mask of each size weighs on a player's value, root mean square [K].

        A mask drawn uniformly among those of size k enters with `kept` L / k if it holds the player, else with `lost`
        L / (L - k).
        """
        n_players, size = self.n_players, np.arange(self.n_players + 1)
        inside = np.divide(self.kept**2 * n_players, size, out=np.zeros_like(self.kept), where=size > 0)
        out = np.divide(
            self.lost**2 * n_players, n_players - size, out=np.zeros_like(self.lost), where=size < n_players
        )
        return np.sqrt(inside + out)

    def coefficients(self, masks_ML: MaskArray) -> FloatArray:
        """Weight [M, L] of the score of each of `masks_ML` in each player's value, were it the only mask of its size.

        The mean over all masks of a size is ``kept - lost`` of that size.
        """
        size_M = masks_ML.sum(axis=1)
        n_players = self.n_players
        inside_M = self.kept[size_M] * n_players / np.maximum(size_M, 1)
        outside_M = self.lost[size_M] * n_players / np.maximum(n_players - size_M, 1)
        return np.where(masks_ML, inside_M[:, None], -outside_M[:, None])

    def of_table(self, masks_ML: MaskArray, scores_M: FloatArray) -> FloatArray:
        """Exact values [L] from `masks_ML`, all masks of the sizes that enter in any order, and their scores
        `scores_M`.
        """
        coefficients_ML = self.coefficients(masks_ML)
        size_M = masks_ML.sum(axis=1)
        values = np.zeros(self.n_players)
        for size in self.sizes:
            rows = size_M == size
            values += scores_M[rows] @ coefficients_ML[rows] / rows.sum()
        return values

"""Semivalues from masks that were drawn at random, without a model of the game.

Each mask tells of every player: of those it keeps and of those it lacks. Applied to what a surrogate misses, this makes
the surrogate's values unbiased, however poor it is: regression-adjusted Monte Carlo.

Shapes: L layers (players), M masks, B vectors of scores. True = layer kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from layershap.masks import first_rows
from layershap.protocols import FloatArray, IntArray, MaskArray
from layershap.shapley.semivalues import Semivalue

_PRIOR_MASKS = 10
"""A player's own variance within a size counts against the variance of all masks of the size as so many masks would."""

_TELLING_MASKS = 2
"""Masks drawn at random that tell how much a size without any may vary (`tests/test_fitting_coverage.py`)."""


@dataclass(frozen=True)
class SampledMasks:
    """Masks drawn uniformly within each size, and the semivalue that they are to estimate.

    How many were drawn of each size may be anything. A size of which all masks are there is exact; one that has none
    contributes nothing, and is named in `missing`.

    Attributes
    ----------
    masks : ndarray [M, L] of bool
        Repetitions count as often as they were drawn, except in sizes of which all masks are there.
    semivalue : Semivalue
        Weights of the sizes.

    References
    ----------
    Cochran, Sampling techniques, 1977, chapters 2 and 7 (difference estimator, finite populations). Witter, Liu &
    Musco, Regression-adjusted Monte Carlo estimators for Shapley values and probabilistic values, 2025, arXiv
    2506.11849.
    """

    masks: MaskArray
    semivalue: Semivalue

    @property
    def enumerated(self) -> list[int]:
        """Sizes of which all masks are there."""
        n_players = self.semivalue.n_players
        return [int(size) for size in self._sizes if self._n_distinct(size) == comb(n_players, int(size))]

    @property
    def missing(self) -> list[int]:
        """Sizes that enter the values and of which no mask is there."""
        return [int(size) for size in self.semivalue.sizes if size not in self._sizes]

    @property
    def at_random(self) -> MaskArray:
        """Which masks are of a size that is not enumerated [M]."""
        return ~np.isin(self.masks.sum(axis=1), self.enumerated)

    @property
    def exact(self) -> bool:
        """Whether all masks are there of every size that has some or enters the values."""
        return not self.at_random.any() and not self.missing

    def values(self, scores: FloatArray) -> FloatArray:
        """Estimates [L] from scores [M], or [B, L] from scores [B, M]; unbiased where no size is missing."""
        scores_BM = np.atleast_2d(scores)
        values_BL = np.zeros((len(scores_BM), self.semivalue.n_players))
        for size, rows in self._rows():
            net = self.semivalue.kept[size] - self.semivalue.lost[size]
            mean_B = scores_BM[:, rows].mean(axis=1)
            centred_BM = scores_BM[:, rows] - mean_B[:, None]
            scale = self._unshrunk(size, rows) / len(rows)
            values_BL += scale * centred_BM @ self.semivalue.coefficients(self.masks[rows]) + net * mean_B[:, None]
        return values_BL[0] if np.ndim(scores) == 1 else values_BL

    def standard_errors(self, scores_M: FloatArray) -> FloatArray:
        """Standard errors [L] of ``values(scores_M)`` by which masks were drawn; 0 where all sizes are enumerated.

        A size with a single mask, or with none, is taken to vary as all masks do that were drawn at random. Where these
        are fewer than two, nobody knows, and the errors are NaN.
        """
        variance_L = np.zeros(self.semivalue.n_players)
        random = scores_M[self.at_random]
        typical = float(np.mean(random**2)) if len(random) >= _TELLING_MASKS else np.nan
        for size in self.missing:
            variance_L += self.semivalue.spread[size] ** 2 * typical
        for size, rows in self._rows():
            drawn = len(rows)
            population = comb(self.semivalue.n_players, int(size))
            distinct = self._n_distinct(size)
            if distinct == population:
                continue
            # Draws that repeat themselves were independent; distinct ones leave only the rest of the size unknown.
            unseen = 1 - drawn / population if distinct == drawn else 1.0
            squares_M = (scores_M[rows] - scores_M[rows].mean()) ** 2 * drawn / max(drawn - 1, 1)
            if drawn == 1:
                squares_M = np.array([typical])
            coefficients_ML = self.semivalue.coefficients(self.masks[rows])
            own_L = (coefficients_ML**2 * squares_M[:, None]).mean(axis=0)
            pooled = float(self.semivalue.spread[size] ** 2 * squares_M.mean())
            share = drawn / (drawn + _PRIOR_MASKS)
            scale = max(self._unshrunk(size, rows), 1.0) ** 2 * unseen / drawn
            variance_L += (share * own_L + (1 - share) * pooled) * scale
        return np.sqrt(variance_L)

    def seen_shares(self) -> FloatArray:
        """Which share of all masks of its size was drawn, for each mask [M]; 0 where draws repeat themselves."""
        size_M = self.masks.sum(axis=1)
        shares = np.zeros(len(self.masks))
        for size in self._sizes:
            of_size = size_M == size
            distinct, population = self._n_distinct(int(size)), comb(self.semivalue.n_players, int(size))
            if distinct == population:
                shares[of_size] = 1.0
            elif distinct == of_size.sum():
                shares[of_size] = distinct / population
        return shares

    def _unshrunk(self, size: int, rows: IntArray) -> float:
        """Scores centred by their own mean vary by (n - 1) / n too little; distinct draws from N by less than that."""
        drawn, population = len(rows), comb(self.semivalue.n_players, int(size))
        if drawn == 1 or self._n_distinct(size) == population:
            return 1.0
        independent = drawn / (drawn - 1)
        return independent * (population - 1) / population if self._n_distinct(size) == drawn else independent

    @property
    def _sizes(self) -> IntArray:
        return np.unique(self.masks.sum(axis=1))

    def _n_distinct(self, size: int) -> int:
        return len(first_rows(self.masks[self.masks.sum(axis=1) == size]))

    def _rows(self) -> Sequence[tuple[int, IntArray]]:
        """For each size that enters the values, the masks to average over."""
        size_M = self.masks.sum(axis=1)
        found = []
        for size in self.semivalue.sizes:
            rows = np.flatnonzero(size_M == size)
            if not len(rows):
                continue
            first = first_rows(self.masks[rows])
            if len(first) == comb(self.semivalue.n_players, int(size)):
                rows = rows[first]
            found.append((int(size), rows))
        return found

"""Weighted mixtures of utilities: on one calibration set, or each on its own part of it.

Shapes: M masks, S calibration sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layershap.protocols import FloatArray, IntArray, ResamplingUtility, SequenceStatistics, Statistic, Utility
from layershap.utilities.naming import score_name


def resample_sequences(utility: Utility, n_sequences: int, rng: np.random.Generator) -> IntArray:
    """Draw from `n_sequences` calibration sequences with repetition by `rng`, for a bootstrap of a `utility`'s scores.

    A utility whose sequences belong together (`layershap.protocols.ResamplingUtility`) draws them together; for other
    utilities each sequence is drawn on its own.
    """
    if isinstance(utility, ResamplingUtility):
        return utility.resample(n_sequences, rng)
    return rng.integers(n_sequences, size=n_sequences)


def bootstrap_scores(
    utility: Utility, statistics: SequenceStatistics, n_resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Scores of masks on resampled sequences [B, M], from the statistics of each sequence; no model is run."""
    n_sequences = len(statistics.counts)
    draws = [resample_sequences(utility, n_sequences, rng) for _ in range(n_resamples)]
    return np.array([utility.score(statistics.resampled(draw)) for draw in draws])


def tied_to_sequences(utility: object) -> bool:
    """Whether a `utility` knows its calibration sequences by number, so that it can't score a part of them."""
    if isinstance(utility, WeightedSum):
        return any(tied_to_sequences(part) for part in utility.utilities)
    return isinstance(utility, ResamplingUtility)


@dataclass(frozen=True)
class WeightedSum:
    """Weighted sum of utilities on the same calibration sequences: ``sum_i weights[i] * utilities[i]``.

    Parameters
    ----------
    utilities : tuple of Utility
        Utilities to add. Their scales differ (nats, ratios, shares): the weights must bring them together.
    weights : tuple of float
        One weight for each utility, not negative, not all 0.

    See Also
    --------
    OnSequences : Restricts a utility to a part of the sequences.
    layershap.tasks.mixture : Makes a weighted sum of tasks.
    """

    utilities: tuple[Utility, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.utilities) != len(self.weights) or not self.utilities:
            raise ValueError(
                f"a mixture needs one weight for each of its utilities, at least one; got {len(self.utilities)} "
                f"utilities and {len(self.weights)} weights"
            )
        for utility in self.utilities:
            if not isinstance(utility, Utility):
                raise TypeError(
                    f"a mixture takes utilities with `statistics` and `score`, got {type(utility).__name__}; a plain "
                    "f(model) -> float can't be mixed in: let it compute the whole mixture"
                )
        if min(self.weights) < 0 or sum(self.weights) <= 0 or not np.isfinite(self.weights).all():
            raise ValueError(f"weights must be finite, not negative and not all 0, got {self.weights}")

    def __str__(self) -> str:
        parts = zip(self.weights, self.utilities, strict=True)
        return " + ".join(f"{weight:.4g} x {score_name(utility)}" for weight, utility in parts)

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Names of the per-token statistics that any of the utilities needs, in a fixed order."""
        return tuple(sorted({name for utility in self.utilities for name in utility.statistics}))

    def resample(self, n_sequences: int, rng: np.random.Generator) -> IntArray:
        """Draw from `n_sequences` sequences with repetition by `rng`.

        Each part (`OnSequences`) draws as its utility does; the sequences of no part are drawn among themselves.
        """
        for utility in self.utilities:
            if isinstance(utility, ResamplingUtility) and not isinstance(utility, OnSequences):
                return resample_sequences(utility, n_sequences, rng)
        parts = {(part.start, part.stop): part for part in self.utilities if isinstance(part, OnSequences)}
        rest = np.setdiff1d(np.arange(n_sequences), [s for start, stop in parts for s in range(start, stop)])
        drawn = [part.resample(n_sequences, rng) for part in parts.values()]
        return np.concatenate([*drawn, rng.choice(rest, len(rest)) if len(rest) else rest]).astype(np.int64)

    def score(self, statistics: SequenceStatistics) -> FloatArray:
        """Scores [M] from `statistics`: the weighted sums."""
        parts = [weight * utility.score(statistics) for utility, weight in zip(self.utilities, self.weights)]
        return np.sum(parts, axis=0)


@dataclass(frozen=True)
class OnSequences:
    """A utility that sees only the calibration sequences ``start <= s < stop``: one task among several.

    Parameters
    ----------
    utility : Utility
        Utility made for a calibration set of ``stop - start`` sequences.
    start, stop : int
        Range of these sequences in the larger set.

    See Also
    --------
    WeightedSum : Adds utilities up.
    """

    utility: Utility
    start: int
    stop: int

    def __str__(self) -> str:
        return score_name(self.utility)

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Names of the per-token statistics that the utility needs."""
        return self.utility.statistics

    def resample(self, n_sequences: int, rng: np.random.Generator) -> IntArray:
        """Draw with repetition by `rng` among the utility's own of the `n_sequences` sequences."""
        return self.start + resample_sequences(self.utility, self.stop - self.start, rng)

    def score(self, statistics: SequenceStatistics) -> FloatArray:
        """Scores [M] from the part of `statistics` that belongs to the utility's sequences."""
        columns_S = np.arange(len(statistics.counts)) if statistics.sequences is None else statistics.sequences
        inside = np.flatnonzero((columns_S >= self.start) & (columns_S < self.stop))
        part = statistics.resampled(inside)
        return self.utility.score(
            SequenceStatistics(part.sums, part.dense, part.counts, sequences=columns_S[inside] - self.start)
        )

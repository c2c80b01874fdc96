"""Utilities: per-sequence statistics of masked models -> one score per mask, higher is better."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layershap.limits import check_int
from layershap.protocols import FloatArray, SequenceStatistics, Statistic


def _mean_nll(statistics: SequenceStatistics) -> tuple[FloatArray, float]:
    """Token-weighted mean NLL in nats of the masked models [M] and of the dense one."""
    tokens = statistics.counts.sum()
    return statistics.sums["nll"].sum(axis=1) / tokens, float(statistics.dense["nll"].sum() / tokens)


@dataclass(frozen=True)
class PerplexityRatio:
    """``s(m) = PPL_orig / PPL(M(m))``, the paper's score and the default: 1 for the dense model, 0 for a hopeless one.

    Perplexity is the exponential, taken once, of the mean NLL over all scored tokens. Because the score is bounded,
    hopeless coalitions don't rule the values, as they do with the log-likelihood itself.

    References
    ----------
    Pruning as a Cooperative Game, arXiv 2602.07804, section 3.
    """

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Needs the NLL."""
        return ("nll",)

    def score(self, statistics: SequenceStatistics) -> FloatArray:
        """Scores [M] in [0, inf); above 1 where a masked model beats the dense one."""
        masked_M, dense = _mean_nll(statistics)
        # Overflow and underflow have their right meanings here: a score of inf or 0.
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return np.exp(dense - masked_M)


@dataclass(frozen=True)
class NegativeLogLikelihood:
    """Minus the mean NLL per token, in nats."""

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Needs the NLL."""
        return ("nll",)

    def score(self, statistics: SequenceStatistics) -> FloatArray:
        """Scores [M], at most 0."""
        return -_mean_nll(statistics)[0]


@dataclass(frozen=True)
class KLDivergence:
    """Minus the mean over tokens of KL(dense || masked), in nats: 0 for the dense model. Needs no labels' truth.

    Parameters
    ----------
    top_k : int, optional
        Tell apart only the dense model's so many most probable tokens at each position, all others counting as one:
        the tail of improbable tokens, where neither model knows much, then has less of a say. Never more than the whole
        divergence.
    """

    top_k: int | None = None

    def __post_init__(self) -> None:
        if self.top_k is not None:
            check_int("top_k", self.top_k, 1, other="None for all tokens")

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Needs the KL divergence."""
        return ("kl" if self.top_k is None else f"kl_top{self.top_k}",)

    def score(self, statistics: SequenceStatistics) -> FloatArray:
        """Scores [M], at most 0."""
        return -statistics.sums[self.statistics[0]].sum(axis=1) / statistics.counts.sum()

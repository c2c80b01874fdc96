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
    """Perplexity of the dense model over that of the masked model, ``s(m) = PPL_orig / PPL(M(m))``: the default.

    The score is 1 for the dense model and close to 0 for a ruined one. Perplexity is the exponential, taken once, of
    the mean NLL over all scored tokens. Because the score is bounded, ruined coalitions don't rule the values, as they
    do with the log-likelihood itself.

    See Also
    --------
    NegativeLogLikelihood : The logarithm of the perplexity, negated.
    KLDivergence : Compares whole predictions with the dense model's.

    References
    ----------
    Pruning as a Cooperative Game, arXiv 2602.07804, section 3.
    """

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Names of the per-token statistics that the score needs: the NLL."""
        return ("nll",)

    def score(self, statistics: SequenceStatistics) -> FloatArray:
        """Scores [M] from `statistics`, in [0, inf); above 1 where a masked model beats the dense one."""
        masked_M, dense = _mean_nll(statistics)
        # Overflow and underflow have their right meanings here: a score of inf or 0.
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return np.exp(dense - masked_M)


@dataclass(frozen=True)
class NegativeLogLikelihood:
    """Minus the mean NLL per token, in nats: higher is better, and 0 is a perfect prediction.

    See Also
    --------
    PerplexityRatio : The same on a bounded scale.
    """

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Names of the per-token statistics that the score needs: the NLL."""
        return ("nll",)

    def score(self, statistics: SequenceStatistics) -> FloatArray:
        """Scores [M] from `statistics`, at most 0, in nats per token."""
        return -_mean_nll(statistics)[0]


@dataclass(frozen=True)
class KLDivergence:
    """Minus the mean over tokens of KL(dense || masked), in nats: 0 for the dense model.

    The utility compares two models and doesn't need the text to be true.

    Parameters
    ----------
    top_k : int, optional
        Number of the dense model's most probable tokens that are told apart at each position; all others count as one
        token, so that the tail of improbable tokens weighs less. The result never exceeds the whole divergence. By
        default all tokens are told apart.

    See Also
    --------
    PerplexityRatio : Measures how well the masked model predicts the text itself.
    """

    top_k: int | None = None

    def __post_init__(self) -> None:
        if self.top_k is not None:
            check_int("top_k", self.top_k, 1, other="None for all tokens")

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Names of the per-token statistics that the score needs: the KL divergence."""
        return ("kl" if self.top_k is None else f"kl_top{self.top_k}",)

    def score(self, statistics: SequenceStatistics) -> FloatArray:
        """Scores [M] from `statistics`, at most 0, in nats per token."""
        return -statistics.sums[self.statistics[0]].sum(axis=1) / statistics.counts.sum()

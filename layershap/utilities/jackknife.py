"""Standard errors of scores over calibration sequences by the jackknife (Efron & Stein, 1981): each left out in turn.

Shapes: M masks, S calibration sequences.
"""

from __future__ import annotations

import numpy as np

from layershap.protocols import FloatArray, SequenceStatistics, Utility


def paired_differences(utility: Utility, statistics: SequenceStatistics) -> tuple[FloatArray, FloatArray]:
    """How far the second half of the masks is ahead of the first half [M], and the standard error of that [M].

    +inf where only the second score is finite, -inf where only the first is.
    """
    scores = utility.score(statistics)
    without_S2M = left_out_scores(utility, statistics)
    half = len(scores) // 2
    first, second = scores[:half], scores[half:]
    with np.errstate(invalid="ignore"):
        ahead = second - first
        errors = jackknife_errors(without_S2M[:, half:] - without_S2M[:, :half])
    ahead = np.where(np.isfinite(first) & np.isfinite(second), ahead, np.where(np.isfinite(second), np.inf, -np.inf))
    return ahead, errors


def left_out_scores(utility: Utility, statistics: SequenceStatistics) -> FloatArray:
    """Scores of the masks on all sequences but one, for each sequence [S, M]."""
    everything = np.arange(len(statistics.counts))
    return np.array([utility.score(statistics.resampled(np.delete(everything, left_out))) for left_out in everything])


def jackknife_errors(left_out_SM: FloatArray) -> FloatArray:
    """Standard errors [M] of figures, from what they are without each sequence."""
    n_sequences = len(left_out_SM)
    spread = ((left_out_SM - left_out_SM.mean(axis=0)) ** 2).sum(axis=0)
    return np.sqrt(spread * (n_sequences - 1) / n_sequences)

"""Exact match of a continuation, by greedy decoding.

Shapes: M masks, S calibration sequences, Q of them with scored tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layershap.protocols import FloatArray, SequenceStatistics, Statistic


@dataclass(frozen=True)
class ExactMatch:
    """Share of the sequences whose scored tokens are all the model's most probable ones.

    Sequences without a scored token don't count. With the context of each sequence unscored and its last word scored
    (`layershap.tasks.last_word`), the share is LAMBADA's accuracy as lm-evaluation-harness counts it.

    See Also
    --------
    PerplexityRatio : The smooth score that `layershap.tasks.last_word` prunes by.
    """

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Names of the per-token statistics that the score needs: the hits."""
        return ("hits",)

    def per_question(self, statistics: SequenceStatistics) -> FloatArray:
        """Hits [M, Q] from `statistics`: 1 where every scored token of a sequence is hit, NaN where the model gives
        none.
        """
        asked = statistics.counts > 0
        hits_MQ = statistics.sums["hits"][:, asked]
        return np.where(np.isnan(hits_MQ), np.nan, hits_MQ == statistics.counts[asked])

    def score(self, statistics: SequenceStatistics) -> FloatArray:
        """Scores [M] from `statistics`: shares of sequences, in [0, 1]."""
        right_MQ = self.per_question(statistics)
        return right_MQ.mean(axis=1) if right_MQ.shape[1] else np.full(len(right_MQ), np.nan)

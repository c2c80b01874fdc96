"""Exact match of a continuation, by greedy decoding.

Shapes: M masks, S calibration sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layershap.protocols import FloatArray, SequenceStatistics, Statistic


@dataclass(frozen=True)
class ExactMatch:
    """Share of the sequences whose scored tokens are all the model's most probable ones.

    With the context of each sequence unscored and its last word scored (`layershap.tasks.last_word`), this is LAMBADA's
    accuracy as lm-evaluation-harness counts it.
    """

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Needs the hits."""
        return ("hits",)

    def per_question(self, statistics: SequenceStatistics) -> FloatArray:
        """1 where every scored token of a sequence is hit [M, S]."""
        return (statistics.sums["hits"] == statistics.counts).astype(np.float64)

    def score(self, statistics: SequenceStatistics) -> FloatArray:
        """Scores [M] in [0, 1]."""
        return self.per_question(statistics).mean(axis=1)

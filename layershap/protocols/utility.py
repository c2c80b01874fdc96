"""What a utility is: from per-sequence statistics of masked models to scores.

Shapes: M masks, S calibration sequences, Q questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from layershap.protocols.arrays import FloatArray, IntArray, Statistic


@dataclass(frozen=True)
class SequenceStatistics:
    """Sums of per-token statistics over each calibration sequence, for M masked models.

    Attributes
    ----------
    sums : dict of str to ndarray [M, S]
        Sums of each requested statistic, by name.
    dense : dict of str to ndarray [S]
        The same sums for the model with all its layers.
    counts : ndarray [S]
        Number of scored tokens in each sequence (padding and ignored labels don't count).
    sequences : ndarray [S], optional
        Calibration sequence of each column; None means all sequences in order.
    """

    sums: dict[Statistic, FloatArray]
    dense: dict[Statistic, FloatArray]
    counts: FloatArray
    sequences: IntArray | None = None

    def of_masks(self, rows: IntArray) -> SequenceStatistics:
        """Statistics of the masks at `rows` (indices into M)."""
        return SequenceStatistics({name: value[rows] for name, value in self.sums.items()}, self.dense, self.counts)

    def with_sequences(self, more: SequenceStatistics) -> SequenceStatistics:
        """Statistics of the same masks on the sequences of `more`, too."""
        return SequenceStatistics(
            sums={name: np.concatenate([value, more.sums[name]], axis=1) for name, value in self.sums.items()},
            dense={name: np.concatenate([value, more.dense[name]]) for name, value in self.dense.items()},
            counts=np.concatenate([self.counts, more.counts]),
        )

    def resampled(self, sequences: IntArray) -> SequenceStatistics:
        """Statistics of the same masks on other `sequences` (indices into S, with repetition): for a bootstrap."""
        return SequenceStatistics(
            sums={name: value[:, sequences] for name, value in self.sums.items()},
            dense={name: value[sequences] for name, value in self.dense.items()},
            counts=self.counts[sequences],
            sequences=sequences if self.sequences is None else self.sequences[sequences],
        )


@runtime_checkable
class Utility(Protocol):
    """Turns per-sequence statistics of masked models into one score per mask; higher is better.

    A search judges sets by it on a part of the text, and errors are told by leaving sequences out or drawing them
    again. Both suppose a mean over the sequences or a smooth function of means; for a maximum or a median let nothing
    race (``confidence=1``).

    A plain callable ``f(model) -> float`` is accepted wherever a `Utility` is, at the price of the slow path: it is
    called once per mask with the layers skipped.
    """

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The statistics that `score` reads; the forward computes only these.

        Read when a game is opened, before anything is run.
        """
        ...

    def score(self, statistics: SequenceStatistics) -> FloatArray:
        """Scores [M] from `statistics` of M masks.

        Called when masks were run or found in the ledger, and again for every comparison and resample of the text.
        """
        ...


@runtime_checkable
class ResamplingUtility(Utility, Protocol):
    """A utility whose calibration sequences belong together, as the choices of a question do.

    It knows the sequences by number, so it is always given all of them: a search doesn't score its sets on parts of
    the text, and none of the text is held back.
    """

    def resample(self, n_sequences: int, rng: np.random.Generator) -> IntArray:
        """Draw from `n_sequences` calibration sequences with repetition by `rng`; return their indices.

        Sequences that belong together are drawn together.

        Called when a bootstrap asks what other text of the same kind would have said, once per resample.
        """
        ...


@runtime_checkable
class QuestionUtility(Utility, Protocol):
    """A utility whose score is a mean over questions, so that its error over the questions is known."""

    def per_question(self, statistics: SequenceStatistics) -> FloatArray:
        """Scores [M, Q] of the single questions, from `statistics`.

        Called when `layershap.evaluate` scores one model on a task, for the standard error.
        """
        ...

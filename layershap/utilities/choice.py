"""Multiple choice on the fused path: each (question, choice) is one calibration sequence whose context isn't scored, so
minus its summed NLL is the choice's log-likelihood.

Shapes: M masks, S calibration sequences, Q questions, C most choices of a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from layershap.protocols import FloatArray, IntArray, SequenceStatistics, Statistic

Normalisation = Literal["none", "characters", "bytes", "tokens"]
"""What a choice's log-likelihood is divided by: nothing (lm-evaluation-harness's ``acc``), the length of its text
(``acc_norm``), the length in bytes (``acc_bytes``), or the number of its tokens."""


@dataclass(frozen=True, eq=False)
class ChoiceLayout:
    """Which calibration sequences are the choices of which question, and which choice is right.

    Attributes
    ----------
    sequences_QC : ndarray [Q, C]
        Index into the calibration's S sequences; -1 where a question has fewer choices than C.
    gold_Q : ndarray [Q]
        Index of the right choice.
    characters_S, bytes_S : ndarray [S]
        Lengths of the choices' texts.
    """

    sequences_QC: IntArray
    gold_Q: IntArray
    characters_S: IntArray
    bytes_S: IntArray

    @property
    def n_questions(self) -> int:
        """Q."""
        return len(self.gold_Q)

    def resample(self, rng: np.random.Generator) -> IntArray:
        """The sequences of Q questions drawn with repetition."""
        rows_QC = self.sequences_QC[rng.integers(self.n_questions, size=self.n_questions)]
        return rows_QC[rows_QC >= 0]

    def log_likelihoods(
        self, statistics: SequenceStatistics, normalise: Normalisation
    ) -> tuple[FloatArray, FloatArray]:
        """Log-likelihood of each choice [M, Q, C], -inf where there is none, and how often each question counts [Q].

        In a resampled set, a question counts as often as all of its choices were drawn.
        """
        lengths_S: dict[str, FloatArray | IntArray] = {
            "none": np.ones(len(self.characters_S)),
            "characters": self.characters_S,
            "bytes": self.bytes_S,
        }
        columns = np.arange(len(statistics.counts)) if statistics.sequences is None else statistics.sequences
        times_S = np.bincount(columns, minlength=len(self.characters_S))
        column_S = np.zeros(len(times_S), dtype=np.int64)
        column_S[columns] = np.arange(len(columns))
        absent_QC = self.sequences_QC < 0
        found_QC = column_S[self.sequences_QC]
        if normalise == "tokens":
            length_QC = statistics.counts[found_QC]
        else:
            length_QC = np.asarray(lengths_S[normalise], dtype=np.float64)[self.sequences_QC]
        likelihood_MQC = np.where(absent_QC, -np.inf, -statistics.sums["nll"][:, found_QC] / length_QC)
        times_QC = np.where(absent_QC, np.iinfo(np.int64).max, times_S[self.sequences_QC])
        return likelihood_MQC, times_QC.min(axis=1).astype(np.float64)


def _check(layout: object, normalise: str) -> None:
    if not isinstance(layout, ChoiceLayout):
        raise TypeError(
            f"layout must be the ChoiceLayout of a task (layershap.tasks.multiple_choice(...).layout), "
            f"got {type(layout).__name__}"
        )
    if normalise not in get_args(Normalisation):
        raise ValueError(f"normalise must be one of {list(get_args(Normalisation))}, got {normalise!r}")


@dataclass(frozen=True, eq=False)
class ChoiceAccuracy:
    """Share of the questions whose right choice is the most likely one: lm-evaluation-harness's score on the same rows.

    Parameters
    ----------
    layout : ChoiceLayout
        Made with the calibration data by `layershap.tasks.multiple_choice`.
    normalise : {'none', 'characters', 'bytes', 'tokens'}, default='none'
        What a choice's log-likelihood is divided by: the harness's ``acc``, ``acc_norm``, ``acc_bytes``, or tokens.
    """

    layout: ChoiceLayout
    normalise: Normalisation = "none"

    def __post_init__(self) -> None:
        _check(self.layout, self.normalise)

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Needs the NLL."""
        return ("nll",)

    def resample(self, n_sequences: int, rng: np.random.Generator) -> IntArray:
        """Draws whole questions."""
        return self.layout.resample(rng)

    def per_question(self, statistics: SequenceStatistics) -> FloatArray:
        """1 where the right choice is the most likely, the first of equals counting; NaN for a broken model [M, Q]."""
        likelihood_MQC, _ = self.layout.log_likelihoods(statistics, self.normalise)
        right_MQ = (likelihood_MQC.argmax(axis=2) == self.layout.gold_Q).astype(np.float64)
        return np.where(np.isnan(likelihood_MQC).any(axis=2), np.nan, right_MQ)

    def score(self, statistics: SequenceStatistics) -> FloatArray:
        """Scores [M] in [0, 1]."""
        return _weighted_mean(self.per_question(statistics), self.layout.log_likelihoods(statistics, "none")[1])


@dataclass(frozen=True, eq=False)
class ChoiceLogProbability:
    """Mean log-probability of the right choice among a question's choices: the smooth version of `ChoiceAccuracy`.

    Accuracy on Q questions moves in steps of 1/Q, which hides what single layers do; this doesn't.

    Parameters
    ----------
    layout : ChoiceLayout
        Made with the calibration data by `layershap.tasks.multiple_choice`.
    normalise : {'none', 'characters', 'bytes', 'tokens'}, default='none'
        What a choice's log-likelihood is divided by before the softmax over the choices.
    """

    layout: ChoiceLayout
    normalise: Normalisation = "none"

    def __post_init__(self) -> None:
        _check(self.layout, self.normalise)

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Needs the NLL."""
        return ("nll",)

    def resample(self, n_sequences: int, rng: np.random.Generator) -> IntArray:
        """Draws whole questions."""
        return self.layout.resample(rng)

    def per_question(self, statistics: SequenceStatistics) -> FloatArray:
        """Log-probability of each question's right choice [M, Q], in nats."""
        likelihood_MQC, _ = self.layout.log_likelihoods(statistics, self.normalise)
        gold_MQ = np.take_along_axis(likelihood_MQC, self.layout.gold_Q[None, :, None], axis=2)[..., 0]
        with np.errstate(invalid="ignore"):  # NaN is passed on: the model is broken
            return gold_MQ - np.logaddexp.reduce(likelihood_MQC, axis=2)

    def score(self, statistics: SequenceStatistics) -> FloatArray:
        """Scores [M], at most 0; minus log C is chance."""
        return _weighted_mean(self.per_question(statistics), self.layout.log_likelihoods(statistics, "none")[1])


def _weighted_mean(scores_MQ: FloatArray, times_Q: FloatArray) -> FloatArray:
    """Mean over the questions that were drawn [M]."""
    drawn = times_Q > 0
    return scores_MQ[:, drawn] @ times_Q[drawn] / times_Q.sum()


def layout_of(
    sequences: Sequence[Sequence[int]], gold: Sequence[int], characters: Sequence[int], n_bytes: Sequence[int]
) -> ChoiceLayout:
    """A layout from each question's sequence indices, of any number of choices."""
    sequences_QC = np.full((len(sequences), max(map(len, sequences))), -1, dtype=np.int64)
    for question, indices in enumerate(sequences):
        sequences_QC[question, : len(indices)] = indices
    return ChoiceLayout(sequences_QC, *(np.asarray(values, dtype=np.int64) for values in (gold, characters, n_bytes)))

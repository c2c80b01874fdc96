"""Multiple choice on the fused path: each (question, choice) is one calibration sequence whose context isn't scored, so
minus its summed NLL is the choice's log-likelihood.

Shapes: M masks, S calibration sequences, Q questions, C most choices of a question.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from layershap.protocols import FloatArray, IntArray, SequenceStatistics, Statistic

Normalisation = Literal["none", "characters", "bytes", "tokens"]
"""What a choice's log-likelihood is divided by: nothing (lm-evaluation-harness's ``acc``), the length of its text
(``acc_norm``), the length in bytes (``acc_bytes``), or the number of its tokens."""


@dataclass(frozen=True, eq=False, repr=False)
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

    def __repr__(self) -> str:
        return f"ChoiceLayout({self.n_questions} questions, {len(self.characters_S)} choices)"

    @property
    def n_questions(self) -> int:
        """Number of questions Q."""
        return len(self.gold_Q)

    def resample(self, rng: np.random.Generator) -> IntArray:
        """Draw Q questions with repetition by `rng`, and return their sequences."""
        rows_QC = self.sequences_QC[rng.integers(self.n_questions, size=self.n_questions)]
        return rows_QC[rows_QC >= 0]

    def log_likelihoods(self, statistics: SequenceStatistics, normalise: Normalisation) -> FloatArray:
        """Log-likelihoods [M, Q, C] of the choices.

        Parameters
        ----------
        statistics : SequenceStatistics
            Sums over the sequences of the choices, for M masks.
        normalise : {'none', 'characters', 'bytes', 'tokens'}
            Length by which each log-likelihood is divided.

        Returns
        -------
        ndarray [M, Q, C]
            Log-likelihoods in nats; -inf where a question has fewer than C choices.
        """
        columns_QC = self._columns(statistics)[self.sequences_QC]
        lengths_QC: FloatArray | IntArray = np.ones(1)
        if normalise == "tokens":
            lengths_QC = statistics.counts[columns_QC]
        elif normalise != "none":
            lengths_S = self.characters_S if normalise == "characters" else self.bytes_S
            lengths_QC = lengths_S[self.sequences_QC]
        return np.where(self.sequences_QC < 0, -np.inf, -statistics.sums["nll"][:, columns_QC] / lengths_QC)

    def mean(self, scores_MQ: FloatArray, statistics: SequenceStatistics) -> FloatArray:
        """Means [M] over the questions of `scores_MQ`.

        In a resampled set of sequences a question counts as often as all of its choices were drawn, which `statistics`
        tells.
        """
        drawn = np.arange(len(self.characters_S)) if statistics.sequences is None else statistics.sequences
        times_S = np.bincount(drawn, minlength=len(self.characters_S))
        times_QC = np.where(self.sequences_QC < 0, times_S.max(), times_S[self.sequences_QC])
        times_Q = times_QC.min(axis=1).astype(np.float64)
        counted = times_Q > 0  # a question that was not drawn has no scores
        return scores_MQ[:, counted] @ times_Q[counted] / times_Q.sum()

    def _columns(self, statistics: SequenceStatistics) -> IntArray:
        """A column of the statistics for each sequence [S]; any one of those that a resampled set has."""
        if statistics.sequences is None:
            return np.arange(len(self.characters_S))
        column_S = np.zeros(len(self.characters_S), dtype=np.int64)
        column_S[statistics.sequences] = np.arange(len(statistics.sequences))
        return column_S


def _check(layout: object, normalise: str) -> None:
    if not isinstance(layout, ChoiceLayout):
        raise TypeError(
            f"layout must be the ChoiceLayout of a task, layershap.tasks.multiple_choice(...).utility.layout; got "
            f"{type(layout).__name__}"
        )
    if normalise not in get_args(Normalisation):
        raise ValueError(f"normalise must be one of {list(get_args(Normalisation))}, got {normalise!r}")


@dataclass(frozen=True, eq=False)
class _OnChoices(ABC):
    """Base of the utilities on multiple-choice questions: a mean over the questions."""

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

    @abstractmethod
    def per_question(self, statistics: SequenceStatistics) -> FloatArray:
        """What each question counts [M, Q]."""

    def score(self, statistics: SequenceStatistics) -> FloatArray:
        """Scores [M]: the mean over the questions."""
        return self.layout.mean(self.per_question(statistics), statistics)


@dataclass(frozen=True, eq=False)
class ChoiceAccuracy(_OnChoices):
    """Share of the questions whose right choice is the most likely one: lm-evaluation-harness's score on the same rows.

    Scores lie in [0, 1].

    Parameters
    ----------
    layout : ChoiceLayout
        Layout that `layershap.tasks.multiple_choice` makes with the calibration data: its ``utility.layout``.
    normalise : {'none', 'characters', 'bytes', 'tokens'}, default='none'
        Length by which a choice's log-likelihood is divided.

        - 'none': no length, the harness's ``acc``.
        - 'characters': characters of the choice, the harness's ``acc_norm``.
        - 'bytes': UTF-8 bytes of the choice, the harness's ``acc_bytes``.
        - 'tokens': scored tokens of the choice.

    See Also
    --------
    ChoiceLogProbability : The smooth version, which tells single layers apart.
    """

    def per_question(self, statistics: SequenceStatistics) -> FloatArray:
        """Hits [M, Q] from `statistics`: 1 where the right choice is the most likely one, NaN for a broken model.

        Of equally likely choices the first counts.
        """
        likelihood_MQC = self.layout.log_likelihoods(statistics, self.normalise)
        right_MQ = (likelihood_MQC.argmax(axis=2) == self.layout.gold_Q).astype(np.float64)
        return np.where(np.isnan(likelihood_MQC).any(axis=2), np.nan, right_MQ)


@dataclass(frozen=True, eq=False)
class ChoiceLogProbability(_OnChoices):
    """Mean log-probability of the right choice among a question's choices: the smooth version of `ChoiceAccuracy`.

    Accuracy on Q questions moves in steps of 1/Q, which hides the effect of single layers; the log-probability doesn't.
    Scores are at most 0, in nats; minus log C is chance among C choices.

    Parameters
    ----------
    layout : ChoiceLayout
        Layout that `layershap.tasks.multiple_choice` makes with the calibration data: its ``utility.layout``.
    normalise : {'none', 'characters', 'bytes', 'tokens'}, default='none'
        Length by which a choice's log-likelihood is divided before the softmax over the choices.

        - 'none': no length.
        - 'characters': characters of the choice.
        - 'bytes': UTF-8 bytes of the choice.
        - 'tokens': scored tokens of the choice.

    See Also
    --------
    ChoiceAccuracy : The share of right answers.
    """

    def per_question(self, statistics: SequenceStatistics) -> FloatArray:
        """Log-probabilities [M, Q] of each question's right choice, in nats, from `statistics`."""
        likelihood_MQC = self.layout.log_likelihoods(statistics, self.normalise)
        gold_MQ = np.take_along_axis(likelihood_MQC, self.layout.gold_Q[None, :, None], axis=2)[..., 0]
        with np.errstate(invalid="ignore"):  # NaN is passed on: the model is broken
            return gold_MQ - np.logaddexp.reduce(likelihood_MQC, axis=2)


def layout_of(
    sequences: Sequence[Sequence[int]], gold: Sequence[int], characters: Sequence[int], n_bytes: Sequence[int]
) -> ChoiceLayout:
    """A layout from each question's sequence indices, of any number of choices."""
    sequences_QC = np.full((len(sequences), max(map(len, sequences))), -1, dtype=np.int64)
    for question, indices in enumerate(sequences):
        sequences_QC[question, : len(indices)] = indices
    return ChoiceLayout(sequences_QC, *(np.asarray(values, dtype=np.int64) for values in (gold, characters, n_bytes)))

"""How far two models' perplexities on the same text are apart, and how sure that is.

Shapes: S evaluation sequences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from layershap.protocols import FloatArray, SequenceStatistics
from layershap.utilities import NegativeLogLikelihood
from layershap.utilities.jackknife import paired_differences


@dataclass(frozen=True)
class PairedDifference:
    """By how much one model's perplexity is higher than another's; ``str()`` gives ``+3.1 ± 0.8%``.

    Both have read the same sequences, hard ones and easy ones, so their difference is much surer than either figure.

    Attributes
    ----------
    nll : float
        Difference of the mean negative log-likelihoods, in nats per token: positive where the first model is worse;
        infinite where only one of them is finite, NaN where none is.
    std_error : float
        Its standard error over the evaluation sequences (jackknife); NaN for a single sequence. It says how sure the
        sign is on this kind of text, not what a method would choose on other calibration text.
    """

    nll: float
    std_error: float

    @property
    def percent(self) -> float:
        """By how many percent the first model's perplexity is higher."""
        with np.errstate(over="ignore"):
            return 100 * float(np.expm1(self.nll))

    @property
    def percent_error(self) -> float:
        """Standard error of `percent` (delta method)."""
        return (100 + self.percent) * self.std_error

    def __str__(self) -> str:
        error = "" if math.isnan(self.percent_error) else f" ± {self.percent_error:.1f}"
        return f"{self.percent:+,.1f}{error}%"


def paired_difference(first_S: FloatArray, second_S: FloatArray, tokens_S: FloatArray) -> PairedDifference:
    """The difference of two models.

    Parameters
    ----------
    first_S, second_S : ndarray [S]
        Each model's negative log-likelihood, summed over the scored tokens of each sequence.
    tokens_S : ndarray [S]
        Numbers of these tokens.
    """
    sums = {"nll": np.stack([first_S, second_S])}
    statistics = SequenceStatistics(sums=sums, dense={"nll": first_S}, counts=tokens_S)
    utility = NegativeLogLikelihood()
    first, second = utility.score(statistics)
    if len(tokens_S) < 2 or not (np.isfinite(first) or np.isfinite(second)):
        with np.errstate(invalid="ignore"):
            return PairedDifference(float(second - first), math.nan)
    ahead, errors = paired_differences(utility, statistics)
    return PairedDifference(float(ahead[0]), float(errors[0]))

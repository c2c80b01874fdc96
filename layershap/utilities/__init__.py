"""Utilities: per-sequence statistics of masked models -> one score per mask, higher is better."""

from layershap.utilities.choice import ChoiceAccuracy, ChoiceLayout, ChoiceLogProbability
from layershap.utilities.exact_match import ExactMatch
from layershap.utilities.language_modelling import KLDivergence, NegativeLogLikelihood, PerplexityRatio
from layershap.utilities.mixture import OnSequences, WeightedSum, resample_sequences

__all__ = [
    "ChoiceAccuracy",
    "ChoiceLayout",
    "ChoiceLogProbability",
    "ExactMatch",
    "KLDivergence",
    "NegativeLogLikelihood",
    "OnSequences",
    "PerplexityRatio",
    "WeightedSum",
    "resample_sequences",
]

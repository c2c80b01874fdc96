"""Utilities: per-sequence statistics of masked models -> one score per mask, higher is better."""

from layershap.utilities.language_modelling import KLDivergence, NegativeLogLikelihood, PerplexityRatio

__all__ = ["KLDivergence", "NegativeLogLikelihood", "PerplexityRatio"]

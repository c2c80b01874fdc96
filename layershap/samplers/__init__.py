"""Samplers: which masks to evaluate."""

from layershap.samplers.stratified import PAPER_FRACTIONS, StratifiedSampler, strata_of, strata_sizes

__all__ = [
    "PAPER_FRACTIONS",
    "StratifiedSampler",
    "strata_of",
    "strata_sizes",
]

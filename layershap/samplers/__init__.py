"""Samplers: which masks to evaluate."""

from layershap.samplers.allocating import AllocatingSampler, hopeless_layers
from layershap.samplers.antithetic import AntitheticSampler
from layershap.samplers.stratified import PAPER_FRACTIONS, StratifiedSampler, strata_of, strata_sizes
from layershap.samplers.subsets import SubsetSampler

__all__ = [
    "PAPER_FRACTIONS",
    "AllocatingSampler",
    "AntitheticSampler",
    "StratifiedSampler",
    "SubsetSampler",
    "hopeless_layers",
    "strata_of",
    "strata_sizes",
]

"""Surrogates: regressions from masks to scores. Any scikit-learn regressor serves as well."""

from layershap.surrogates.best import BestSurrogate
from layershap.surrogates.ensemble import BootstrapEnsemble
from layershap.surrogates.hamming_process import HammingProcess
from layershap.surrogates.linear import LinearRidge
from layershap.surrogates.pairwise import PairwiseRidge
from layershap.surrogates.paper_mlp import PaperMLP

__all__ = ["BestSurrogate", "BootstrapEnsemble", "HammingProcess", "LinearRidge", "PairwiseRidge", "PaperMLP"]

"""Surrogates: regressions from masks to scores. Any scikit-learn regressor serves as well."""

from layershap.surrogates.pairwise import PairwiseRidge
from layershap.surrogates.paper_mlp import PaperMLP

__all__ = ["PairwiseRidge", "PaperMLP"]

"""An adaptive sampler: the package has the protocol, and none of its own (benchmarks/results/samplers.md says why)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.base import BaseEstimator

from layershap.masks import leave_one_out_masks
from layershap.protocols import FloatArray, MaskArray
from layershap.samplers import strata_sizes
from layershap.samplers.distinct import draw_distinct


class SpreadSampler(BaseEstimator):
    """Distinct masks that were not drawn before, in proportion to the standard deviation of each size's scores."""

    def __init__(self, strata: Sequence[int] | Sequence[float] | None = None) -> None:
        self.strata = strata

    def sample(self, n_layers: int, n_masks: int, rng: np.random.Generator) -> MaskArray:
        """At most `n_masks` new masks [M, n_layers]; the first round has those that lack one layer in it."""
        seen = getattr(self, "seen_", np.empty((0, n_layers), dtype=bool))
        shares = getattr(self, "shares_", dict.fromkeys(strata_sizes(self.strata, n_layers), 1.0))
        first = leave_one_out_masks(n_layers)[: 0 if len(seen) else n_masks]
        rest = draw_distinct(n_layers, shares, n_masks - len(first), rng, np.concatenate([seen, first]))
        return np.concatenate([first, rest])

    def update(self, masks: MaskArray, scores: FloatArray) -> None:
        """Learn the spread of each size from all `masks` drawn so far [M, L] and their `scores` [M]."""
        self.seen_ = masks
        kept = masks.sum(axis=1)
        sizes = strata_sizes(self.strata, masks.shape[1])
        spread = {k: scores[(kept == k) & np.isfinite(scores)] for k in sizes}
        self.shares_ = {k: 0.01 + float(found.std()) if len(found) else 1.0 for k, found in spread.items()}

"""Samplers: which masks to evaluate.

Shapes: L layers, M masks. True = layer kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from layershap.limits import is_int
from layershap.masks import leave_one_out_masks
from layershap.protocols import MaskArray, Sampler, StrataSampler
from layershap.samplers.distinct import draw_distinct
from layershap.shapley import Semivalue, sample_strata

PAPER_FRACTIONS = (0.94, 0.84, 0.75, 0.66, 0.56)
"""Kept fractions of the paper's strata: 30, 27, 24, 21 and 18 of 32 layers."""


def strata_sizes(strata: Sequence[int] | Sequence[float] | str | None, n_layers: int) -> list[int]:
    """Numbers of kept layers: ints as they are, fractions of L rounded; the paper's fractions by default, 'all' for
    all.

    Raises
    ------
    ValueError
        A size outside [0, L], or a fraction outside (0, 1].
    TypeError
        Neither an int nor a float.
    """
    if isinstance(strata, str):
        if strata != "all":
            raise ValueError(f"strata must be numbers, fractions or 'all', got {strata!r}")
        return list(range(n_layers + 1))
    chosen: Sequence[Any] = PAPER_FRACTIONS if strata is None else strata
    sizes: list[int] = []
    for value in chosen:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(
                f"strata must be ints (kept layers) or floats (fractions of them), got {value!r} of type "
                f"{type(value).__name__}"
            )
        if is_int(value):
            size = int(value)
        elif 0 < float(value) <= 1:
            size = round(float(value) * n_layers)
        else:
            raise ValueError(f"a stratum given as a fraction must lie in (0, 1], got {value}")
        if not 0 <= size <= n_layers:
            raise ValueError(f"a stratum must keep between 0 and {n_layers} layers, got {size}")
        sizes.append(size)
    if not sizes:
        raise ValueError("strata must name at least one number of kept layers, got none")
    return sizes


class StratifiedSampler(BaseEstimator):
    """Masks stratified by how many layers they keep, with an equal budget per stratum.

    Parameters
    ----------
    strata : sequence of int or float, optional
        Kept layers (ints) or fractions of L (floats), or 'all' sizes. By default the paper's (0.94, 0.84, 0.75, 0.66,
        0.56).
    replace : bool, default=False
        False draws distinct masks, and what a small stratum can't use goes to the others, so every mask asked for is
        new information. True draws independently, as the paper does.
    leave_one_out : bool, default=False
        Begin with the masks that lack one layer, which tell the veto players.
    neighbours : bool, default=False
        Draw from all the sizes that the strata's marginal contributions are made of, which are one layer larger and
        smaller too, in proportion to their weight in a value. Only then can values be estimated from the masks without
        relying on the surrogate.

    Attributes
    ----------
    uniform_within_sizes : bool
        True: among the masks of a size each is as likely as any other.

    References
    ----------
    Pruning as a Cooperative Game, arXiv 2602.07804, section 3.
    """

    uniform_within_sizes = True

    def __init__(
        self,
        strata: Sequence[int] | Sequence[float] | str | None = None,
        *,
        replace: bool = False,
        leave_one_out: bool = False,
        neighbours: bool = False,
    ) -> None:
        self.strata = strata
        self.replace = replace
        self.leave_one_out = leave_one_out
        self.neighbours = neighbours

    def sample(self, n_layers: int, n_masks: int, rng: np.random.Generator) -> MaskArray:
        """Masks [M, L]; M < n_masks only if there are no more distinct masks in the strata."""
        sizes = strata_sizes(self.strata, n_layers)
        first = np.empty((0, n_layers), dtype=bool)
        if self.leave_one_out:
            alone = leave_one_out_masks(n_layers)
            # Which of them are there must not depend on the layers' order.
            first = alone if n_masks >= n_layers else alone[np.sort(rng.permutation(n_layers)[:n_masks])]
        if self.replace:
            return np.concatenate([first, sample_strata(n_layers, sizes, n_masks - len(first), rng)])
        weights = {k: float(sizes.count(k)) for k in sizes}
        if self.neighbours:
            semivalue = Semivalue.of_strata(n_layers, sizes)
            weights = {int(k): float(semivalue.spread[k]) for k in semivalue.sizes}
        return np.concatenate([first, draw_distinct(n_layers, weights, n_masks - len(first), rng, first)])


def strata_of(sampler: Sampler, masks: MaskArray) -> list[int]:
    """The sampler's numbers of kept layers, with their weights; for one without strata, those of its masks [M, L]."""
    if isinstance(sampler, StrataSampler):
        return strata_sizes(sampler.strata, masks.shape[1])
    return [int(size) for size in np.unique(masks.sum(axis=1))]

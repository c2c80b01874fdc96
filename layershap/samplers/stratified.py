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
    """Numbers of kept layers that `strata` names for a model of `n_layers` layers.

    Ints are numbers of kept layers, floats are fractions of L that are rounded, 'all' means every size from 0 to L, and
    None means the paper's fractions.

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
    """Masks stratified by the number of layers that they keep, with an equal number of masks per stratum.

    Parameters
    ----------
    strata : sequence of int, sequence of float or 'all', optional
        Coalition sizes. By default the paper's fractions (0.94, 0.84, 0.75, 0.66, 0.56).

        - ints: numbers of kept layers.
        - floats: fractions of L.
        - 'all': every size from 0 to L.

        A fit whose values keep veto players samples the other layers: there fractions are of these, ints still count
        all layers that are kept.
    replace : bool, default=False
        Whether masks may repeat.

        - False: masks are distinct, and the masks that a small stratum can't supply go to the other strata.
        - True: masks are drawn independently, as in the paper.
    leave_one_out : bool, default=False
        True begins with the masks that lack one layer, which tell the veto players.
    neighbours : bool, default=False
        True also draws masks one layer larger and one layer smaller than the strata, in proportion to their weight in a
        value. The strata's marginal contributions are differences between these sizes, so only then can values be
        estimated from the masks without relying on the surrogate. Masks drawn with `replace` ignore it.

    Attributes
    ----------
    uniform_within_sizes : bool
        True: among the masks of a size each is as likely as any other.

    See Also
    --------
    layershap.protocols.AdaptiveSampler : A sampler that learns from the scores.

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
        """Draw masks.

        Parameters
        ----------
        n_layers : int
            Number of layers L to draw over.
        n_masks : int
            Maximum number of masks.
        rng : numpy.random.Generator
            Source of randomness.

        Returns
        -------
        ndarray [M, L] of bool
            Masks, True = layer kept. M is smaller than `n_masks` only if the strata hold no more distinct masks.
        """
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
    """The numbers of kept layers that `sampler` draws from, repeated by weight; for one without `strata`, those of
    `masks`.
    """
    if isinstance(sampler, StrataSampler):
        return strata_sizes(sampler.strata, masks.shape[1])
    return [int(size) for size in np.unique(masks.sum(axis=1))]

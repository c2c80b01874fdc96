"""Values over chosen numbers of kept layers: the paper's stratified marginal contributions.

Shapes: L layers (players), Q masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from layershap.limits import check_int
from layershap.protocols import Game, MaskArray
from layershap.shapley.draws import SampledValues, batched, standard_errors


def sample_strata(n_players: int, strata: Sequence[int], n_masks: int, rng: np.random.Generator) -> MaskArray:
    """Draw masks of given sizes, uniform within a size.

    Parameters
    ----------
    n_players : int
        Number of players L.
    strata : sequence of int
        Numbers of kept players; each has the same number of masks, up to rounding.
    n_masks : int
        Number of masks Q.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    ndarray [Q, L] of bool
        Masks, True = player kept.

    Raises
    ------
    ValueError
        Strata outside [0, L], none at all, or a negative number of masks.
    """
    sizes = [int(size) for size in strata]
    if not sizes or any(not 0 <= size <= n_players for size in sizes):
        raise ValueError(f"strata must be numbers of kept layers in [0, {n_players}], got {list(strata)}")
    check_int("n_masks", n_masks, 0)
    kept_Q = np.array([sizes[i % len(sizes)] for i in range(n_masks)])
    ranks_QL = rng.random((n_masks, n_players)).argsort(axis=1).argsort(axis=1)
    return ranks_QL < kept_Q[:, None]


def stratified_marginals(
    game: Game, n_players: int, strata: Sequence[int], n_masks: int, rng: np.random.Generator
) -> SampledValues:
    """The paper's contribution: the mean over Q stratified masks m of ``f(m with i) - f(m without i)``.

    The average runs over the strata's sizes only, so these are not Shapley values unless the strata are weighted like
    all sizes; they answer the question at the depths that matter.

    Parameters
    ----------
    game : callable
        Function from masks [M, L] to scores [M], usually a surrogate's ``predict``. It is called with Q x L x 2 masks
        in a few batches.
    n_players : int
        Number of players L.
    strata : sequence of int
        Numbers of kept players; each has the same number of masks, up to rounding.
    n_masks : int
        Number of masks Q (the paper's 80,000).
    rng : numpy.random.Generator
        Source of randomness for the masks.

    Returns
    -------
    SampledValues
        Values with standard errors and draws [Q, L].

    Raises
    ------
    ValueError
        `n_masks` below 1, or strata outside [0, L].

    References
    ----------
    Pruning as a Cooperative Game, arXiv 2602.07804, section 3.
    """
    check_int("n_masks", n_masks, 1, meaning="to average over; the paper's is 80,000")
    masks_QL = sample_strata(n_players, strata, n_masks, rng)
    draws_QL = np.empty((n_masks, n_players))
    for layer in range(n_players):
        pair = np.concatenate([masks_QL, masks_QL])
        pair[:n_masks, layer] = True
        pair[n_masks:, layer] = False
        scores = batched(game, pair)
        draws_QL[:, layer] = scores[:n_masks] - scores[n_masks:]
    return SampledValues(draws_QL.mean(axis=0), standard_errors(draws_QL), draws_QL)


def strata_around(n_players: int, n_remove: int, width: int = 1) -> list[int]:
    """Numbers of kept layers within `width` of ``n_players - n_remove``: strata for values at one depth.

    Raises
    ------
    ValueError
        `n_remove` outside [1, L - 1], or a negative `width`.
    """
    if not 1 <= n_remove < n_players:
        raise ValueError(f"n_remove must lie in [1, {n_players - 1}], got {n_remove}")
    check_int("width", width, 0, meaning="0 is that one depth only")
    kept = n_players - n_remove
    return list(range(max(1, kept - width), min(n_players - 1, kept + width) + 1))

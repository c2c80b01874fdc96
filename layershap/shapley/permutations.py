"""Shapley values by sampling the order in which layers join.

Shapes: L layers (players), P orders.
"""

from __future__ import annotations

import numpy as np

from layershap.limits import check_int
from layershap.protocols import Game
from layershap.shapley.draws import SampledValues, batched, player_count, standard_errors


def permutation(
    game: Game, n_permutations: int, *, rng: np.random.Generator, n_players: int | None = None, antithetic: bool = True
) -> SampledValues:
    """Shapley values by sampling the order in which players join.

    Parameters
    ----------
    game : callable
        Function from masks [M, L] to scores [M]; called on P (L + 1) masks, in batches.
    n_permutations : int
        Number of orders P, rounded up to even if antithetic. The standard errors need at least two draws.
    rng : numpy.random.Generator
        Source of randomness for the orders.
    n_players : int, optional
        Number of players L. By default ``game.n_players``.
    antithetic : bool, default=True
        True follows each order by its reverse; the two count as one draw for the standard errors.

    Returns
    -------
    SampledValues
        Values with standard errors, and draws [P, L] of each order.

    See Also
    --------
    kernel : Least squares on coalitions.
    exact : Enumerates all coalitions.

    References
    ----------
    Castro et al., Polynomial calculation of the Shapley value based on sampling, 2009. Mitchell et al., Sampling
    permutations for Shapley value estimation, 2022 (antithetic).
    """
    n_layers = player_count(game, n_players)
    check_int("n_permutations", n_permutations, 1)
    n_drawn = -(-n_permutations // 2) if antithetic else n_permutations
    order_PL = np.stack([rng.permutation(n_layers) for _ in range(n_drawn)])
    if antithetic:
        order_PL = np.stack([order_PL, order_PL[:, ::-1]], axis=1).reshape(-1, n_layers)
    n_orders = len(order_PL)
    rank_PL = np.argsort(order_PL, axis=1)
    # masks[p, s]: the first s layers of order p.
    masks = rank_PL[:, None, :] < np.arange(n_layers + 1)[None, :, None]
    scores = batched(game, masks.reshape(-1, n_layers)).reshape(n_orders, n_layers + 1)
    draws_PL = np.take_along_axis(np.diff(scores, axis=1), rank_PL, axis=1)
    independent = (draws_PL[0::2] + draws_PL[1::2]) / 2 if antithetic else draws_PL
    return SampledValues(draws_PL.mean(axis=0), standard_errors(independent), draws_PL)

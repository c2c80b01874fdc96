"""Pairwise interactions: how much two layers are worth together beyond what each is worth alone.

Shapes: L layers (players), P orders.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np

from layershap.limits import check_int
from layershap.protocols import FloatArray, Game
from layershap.shapley.draws import batched, player_count, standard_errors
from layershap.shapley.enumeration import MAX_EXACT_PLAYERS, all_masks, all_scores, check_table

Index = Literal["k-SII", "STII", "FSII"]


@dataclass(frozen=True)
class Interactions:
    """Interactions of order 2.

    Attributes
    ----------
    main : ndarray [L]
        Effect ascribed to each layer alone.
    pairs : ndarray [L, L]
        Effect ascribed to each pair, symmetric with a zero diagonal: positive where the two need each other,
        negative where one can stand in for the other.
    main_errors, pair_errors : ndarray [L], [L, L]
        Standard errors from sampling; zero where all coalitions were enumerated.
    """

    main: FloatArray
    pairs: FloatArray
    main_errors: FloatArray
    pair_errors: FloatArray


def interactions(
    game: Game, n_players: int | None = None, *, index: Index = "k-SII", max_players: int = MAX_EXACT_PLAYERS
) -> Interactions:
    """Exact interactions of order 2 by enumerating all 2^L coalitions.

    Parameters
    ----------
    game : callable
        Function from masks [M, L] to scores [M].
    n_players : int, optional
        Number of players L. By default ``game.n_players``.
    index : {'k-SII', 'STII', 'FSII'}, default='k-SII'
        Interaction index, defined as in shapiq. With each, ``v(none) + sum of main + sum of pairs (each once) =
        v(all)``.

        - 'k-SII': n-Shapley values; the pairs are the Shapley interaction index.
        - 'STII': Shapley-Taylor interactions.
        - 'FSII': Faith-Shap interactions.
    max_players : int, default=16
        Maximum number of players; each further player doubles the number of evaluated coalitions.

    Returns
    -------
    Interactions
        Main effects and pairs; their errors are 0.

    References
    ----------
    Bordt & von Luxburg, From Shapley values to generalized additive models and back, 2023 (k-SII). Sundararajan et
    al., The Shapley Taylor interaction index, 2020. Tsai et al., Faith-Shap, 2023.
    """
    return interactions_from_table(all_scores(game, n_players, max_players=max_players), index)


def interactions_from_table(scores: FloatArray, index: Index = "k-SII") -> Interactions:
    """Exact interactions of order 2 from a table of scores.

    Parameters
    ----------
    scores : ndarray [2^L]
        Scores of all coalitions, in the order of `all_masks`.
    index : {'k-SII', 'STII', 'FSII'}, default='k-SII'
        Interaction index, as in `interactions`.

    Returns
    -------
    Interactions
        Main effects and pairs; their errors are 0.
    """
    n_layers = check_table(scores)
    dividends = _dividends(scores)
    member = all_masks(n_layers).astype(np.float64)
    sizes = member.sum(axis=1).astype(int)

    def over_supersets(weight_of_size: list[float]) -> FloatArray:
        """[L, L]: for each pair (on the diagonal, each layer), the weighted sum of the dividends of its supersets."""
        weighted = dividends * np.array(weight_of_size)[sizes]
        return member.T @ (weighted[:, None] * member)

    everyone = range(n_layers + 1)
    alone = dividends[1 << np.arange(n_layers)]
    if index == "k-SII":
        pairs = over_supersets([1 / (t - 1) if t >= 2 else 0.0 for t in everyone])
        shapley = np.diag(over_supersets([1 / t if t else 0.0 for t in everyone]))
        np.fill_diagonal(pairs, 0.0)
        main = shapley - pairs.sum(axis=1) / 2
    elif index == "STII":
        pairs = over_supersets([1 / comb(t, 2) if t >= 2 else 0.0 for t in everyone])
        main = alone
    elif index == "FSII":
        pairs = over_supersets([float(t == 2) + _faith_weight(t, 2) for t in everyone])
        main = alone + np.diag(over_supersets([_faith_weight(t, 1) for t in everyone]))
    else:
        raise ValueError(f"index must be 'k-SII', 'STII' or 'FSII', got {index!r}")
    np.fill_diagonal(pairs, 0.0)
    return Interactions(main, pairs, np.zeros(n_layers), np.zeros((n_layers, n_layers)))


def sampled_interactions(
    game: Game, n_permutations: int, *, rng: np.random.Generator, n_players: int | None = None
) -> Interactions:
    """Shapley-Taylor interactions of order 2 by sampling the order in which players join.

    The interaction of i and j in one order is ``v(T + i + j) - v(T + i) - v(T + j) + v(T)``, T being all players that
    joined before both; its mean over orders is the index. One order serves all pairs and takes about L^2 / 2
    coalitions.

    Parameters
    ----------
    game : callable
        Function from masks [M, L] to scores [M].
    n_permutations : int
        Number of orders P. The standard errors need at least two.
    rng : numpy.random.Generator
        Source of randomness for the orders.
    n_players : int, optional
        Number of players L. By default ``game.n_players``.

    Returns
    -------
    Interactions
        Main effects, which are exact, and pairs with standard errors.

    References
    ----------
    Sundararajan et al., The Shapley Taylor interaction index, 2020, section 3 (the axiomatised index as a mean over
    orderings).
    """
    n_layers = player_count(game, n_players)
    check_int("n_permutations", n_permutations, 1)
    # coalitions[p, a, b]: the first a layers of order p and the one at position b >= a; at b = L none more.
    order_PL = np.stack([rng.permutation(n_layers) for _ in range(n_permutations)])
    rank_PL = np.argsort(order_PL, axis=1)
    first, extra = np.triu_indices(n_layers + 1)
    members = (rank_PL[:, None] < first[None, :, None]) | (rank_PL[:, None] == extra[None, :, None])
    scores = np.full((n_permutations, n_layers + 1, n_layers + 1), np.nan)
    scores[:, first, extra] = batched(game, members.reshape(-1, n_layers)).reshape(n_permutations, -1)
    draws = np.zeros((n_permutations, n_layers, n_layers))
    for p, order in enumerate(order_PL):
        for a in range(n_layers - 1):
            later = np.arange(a + 1, n_layers)
            base, with_first = scores[p, a, n_layers], scores[p, a, a]
            found = scores[p, a + 1, later] - with_first - scores[p, a, later] + base
            draws[p, order[a], order[later]] = draws[p, order[later], order[a]] = found
    ends = np.concatenate([np.zeros((1, n_layers), dtype=bool), np.eye(n_layers, dtype=bool)])
    alone = batched(game, ends)
    return Interactions(alone[1:] - alone[0], draws.mean(axis=0), np.zeros(n_layers), standard_errors(draws))


def _faith_weight(t: int, s: int) -> float:
    """Weight of a dividend of size t > 2 in the Faith-Shap interaction of s of its players (Tsai et al., theorem 19,
    with maximal order 2).
    """
    if t <= 2:
        return 0.0
    return (-1) ** (2 - s) * s / (2 + s) * comb(2, s) * comb(t - 1, 2) / comb(t + 1, 2 + s)


def _dividends(scores: FloatArray) -> FloatArray:
    """Harsanyi dividends [2^L]: ``v(S) = sum over T in S of a(T)`` (the Moebius transform)."""
    dividends = np.array(scores, dtype=np.float64)
    for player in range(len(scores).bit_length() - 1):
        blocks = dividends.reshape(-1, 2, 2**player)
        blocks[:, 1] -= blocks[:, 0]
    return dividends

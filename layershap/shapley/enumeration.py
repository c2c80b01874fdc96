"""Exact values: all coalitions, evaluated in one call (one shared-prefix sweep of a `LayerGame`).

Shapes: L layers (players).
"""

from __future__ import annotations

from math import comb

import numpy as np

from layershap.protocols import FloatArray, Game, MaskArray
from layershap.shapley.draws import player_count

MAX_EXACT_PLAYERS = 16
"""65,536 coalitions: with shared prefixes, 65,551 layer runs on the calibration set."""


def all_masks(n_players: int) -> MaskArray:
    """All coalitions of `n_players` players [2^L, L]; row c holds the bits of c, player 0 the lowest bit."""
    codes = np.arange(2**n_players, dtype=np.int64)
    return (codes[:, None] >> np.arange(n_players)) & 1 == 1


def all_scores(game: Game, n_players: int | None = None, *, max_players: int = MAX_EXACT_PLAYERS) -> FloatArray:
    """Scores of all coalitions [2^L], in the order of `all_masks`.

    Raises
    ------
    ValueError
        More than `max_players` players.
    """
    n_layers = player_count(game, n_players)
    if n_layers > max_players:
        raise ValueError(
            f"exact values enumerate 2^L coalitions, by max_players at most 2^{max_players}; this game has {n_layers} "
            "players. Use shapley.permutation, shapley.kernel or a surrogate with closed-form values; or raise "
            "max_players."
        )
    return np.asarray(game(all_masks(n_layers)), dtype=np.float64)


def check_table(scores: FloatArray) -> int:
    """L, of a table of the scores of all 2^L coalitions.

    Raises
    ------
    ValueError
        Not a power of two, or a score that is not finite.
    """
    n_layers = len(scores).bit_length() - 1
    if len(scores) != 2**n_layers:
        raise ValueError(f"scores must hold all 2^L coalitions, got {len(scores)}")
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} coalitions have no finite score")
    return n_layers


def exact(game: Game, n_players: int | None = None, *, max_players: int = MAX_EXACT_PLAYERS) -> FloatArray:
    """Shapley values by enumerating all 2^L coalitions.

    ``phi_i = sum_S |S|! (L-|S|-1)! / L! (v(S + i) - v(S))``; they sum to ``v(all) - v(none)``.

    Parameters
    ----------
    game : callable
        Function from masks [M, L] to scores [M].
    n_players : int, optional
        Number of players L. By default ``game.n_players``.
    max_players : int, default=16
        Maximum number of players; each further player doubles the number of evaluated coalitions.

    Returns
    -------
    ndarray [L]
        Shapley values.

    Raises
    ------
    ValueError
        More players than `max_players`, or a coalition without a finite score.

    See Also
    --------
    permutation : Samples orders.
    kernel : Samples coalitions.

    References
    ----------
    Shapley, A value for n-person games, 1953.
    """
    return exact_from_table(all_scores(game, n_players, max_players=max_players))


def exact_from_table(scores: FloatArray) -> FloatArray:
    """Shapley values [L] from the scores of all coalitions [2^L], in the order of `all_masks`."""
    n_layers = check_table(scores)
    codes = np.arange(2**n_layers, dtype=np.int64)
    sizes = all_masks(n_layers).sum(axis=1)
    weight_of_size = np.array([1.0 / (n_layers * comb(n_layers - 1, size)) for size in range(n_layers)])
    values = np.empty(n_layers)
    for player in range(n_layers):
        without = codes[(codes >> player) & 1 == 0]
        marginals = scores[without | (1 << player)] - scores[without]
        values[player] = weight_of_size[sizes[without]] @ marginals
    return values

"""Values of layers in a cooperative game: exact, by permutation sampling, and the paper's stratified marginals.

These functions know nothing of models: a game is any callable masks [M, L] -> scores [M].

Shapes: L layers, M masks, P permutations, Q sampled masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from layershap.protocols import FloatArray, Game, IntArray, MaskArray

MAX_EXACT_PLAYERS = 20
"""2^20 coalitions fit in memory; what they cost is the game's matter."""

_BATCH = 2**16
"""Masks given to a game in one call."""


@dataclass(frozen=True)
class SampledValues:
    """Estimated values with the draws behind them.

    Attributes
    ----------
    values : ndarray [L]
        Means over the draws.
    standard_errors : ndarray [L]
        Standard deviation of the draws over the square root of their number.
    draws : ndarray [P, L]
        One marginal contribution per permutation and layer.
    """

    values: FloatArray
    standard_errors: FloatArray
    draws: FloatArray


def all_masks(n_players: int) -> MaskArray:
    """All coalitions [2^L, L]; row c holds the bits of c, player 0 the lowest bit."""
    codes = np.arange(2**n_players, dtype=np.int64)
    return (codes[:, None] >> np.arange(n_players)) & 1 == 1


def exact(game: Game, n_players: int | None = None) -> FloatArray:
    """Shapley values [L] by enumerating all 2^L coalitions.

    ``phi_i = sum_S |S|! (L-|S|-1)! / L! (v(S + i) - v(S))``; they sum to ``v(all) - v(none)``.

    Parameters
    ----------
    game : callable
        Masks [M, L] -> scores [M].
    n_players : int, optional
        L; by default ``game.n_players``.

    Raises
    ------
    ValueError
        More players than `MAX_EXACT_PLAYERS`, or a coalition without a finite score.

    References
    ----------
    Shapley, A value for n-person games, 1953.
    """
    n_layers = _n_players(game, n_players)
    if n_layers > MAX_EXACT_PLAYERS:
        raise ValueError(
            f"exact values enumerate 2^L coalitions, at most 2^{MAX_EXACT_PLAYERS}; this game has {n_layers} players. "
            "Use shapley.permutation, or a surrogate with closed-form values."
        )
    return exact_from_table(np.asarray(game(all_masks(n_layers)), dtype=np.float64))


def exact_from_table(scores: FloatArray) -> FloatArray:
    """Shapley values [L] from the scores of all coalitions [2^L], in the order of `all_masks`."""
    n_layers = len(scores).bit_length() - 1
    if len(scores) != 2**n_layers:
        raise ValueError(f"scores must hold all 2^L coalitions, got {len(scores)}")
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} coalitions have no finite score")
    codes = np.arange(2**n_layers, dtype=np.int64)
    sizes = all_masks(n_layers).sum(axis=1)
    weight_of_size = np.array([1.0 / (n_layers * comb(n_layers - 1, size)) for size in range(n_layers)])
    values = np.empty(n_layers)
    for player in range(n_layers):
        without = codes[(codes >> player) & 1 == 0]
        marginals = scores[without | (1 << player)] - scores[without]
        values[player] = weight_of_size[sizes[without]] @ marginals
    return values


def permutation(
    game: Game, n_permutations: int, *, rng: np.random.Generator, n_players: int | None = None, antithetic: bool = True
) -> SampledValues:
    """Shapley values by sampling the order in which layers join.

    Parameters
    ----------
    game : callable
        Masks [M, L] -> scores [M]; called on P (L + 1) masks, in batches.
    n_permutations : int
        P, rounded up to even if antithetic. The standard errors need at least two draws.
    rng : numpy.random.Generator
        Of the orders.
    n_players : int, optional
        L; by default ``game.n_players``.
    antithetic : bool, default=True
        Follow each order by its reverse; the two count as one draw for the standard errors.

    References
    ----------
    Castro et al., Polynomial calculation of the Shapley value based on sampling, 2009. Mitchell et al., Sampling
    permutations for Shapley value estimation, 2022 (antithetic).
    """
    n_layers = _n_players(game, n_players)
    if n_permutations < 1:
        raise ValueError(f"n_permutations must be at least 1, got {n_permutations}")
    n_drawn = -(-n_permutations // 2) if antithetic else n_permutations
    order_PL = np.stack([rng.permutation(n_layers) for _ in range(n_drawn)])
    if antithetic:
        order_PL = np.stack([order_PL, order_PL[:, ::-1]], axis=1).reshape(-1, n_layers)
    n_orders = len(order_PL)
    rank_PL = np.argsort(order_PL, axis=1)
    # masks[p, s]: the first s layers of order p.
    masks = rank_PL[:, None, :] < np.arange(n_layers + 1)[None, :, None]
    scores = _batched(game, masks.reshape(-1, n_layers)).reshape(n_orders, n_layers + 1)
    draws_PL = np.take_along_axis(np.diff(scores, axis=1), rank_PL, axis=1)
    independent = (draws_PL[0::2] + draws_PL[1::2]) / 2 if antithetic else draws_PL
    return SampledValues(draws_PL.mean(axis=0), _standard_errors(independent), draws_PL)


def sample_strata(n_players: int, strata: Sequence[int], n_masks: int, rng: np.random.Generator) -> MaskArray:
    """Draw masks of given sizes, the same number for each size (up to rounding), uniform within a size [Q, L]."""
    sizes = [int(size) for size in strata]
    if not sizes or any(not 0 <= size <= n_players for size in sizes):
        raise ValueError(f"strata must be numbers of kept layers in [0, {n_players}], got {list(strata)}")
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
        Usually a surrogate's ``predict``. Called with Q x L x 2 masks in a few batches.
    n_players : int
        L.
    strata : sequence of int
        Numbers of kept layers; equal budget for each.
    n_masks : int
        Q (the paper's 80,000).
    rng : numpy.random.Generator
        Of the masks.

    References
    ----------
    Pruning as a Cooperative Game, arXiv 2602.07804, section 3.
    """
    masks_QL = sample_strata(n_players, strata, n_masks, rng)
    draws_QL = np.empty((n_masks, n_players))
    for layer in range(n_players):
        pair = np.concatenate([masks_QL, masks_QL])
        pair[:n_masks, layer] = True
        pair[n_masks:, layer] = False
        scores = _batched(game, pair)
        draws_QL[:, layer] = scores[:n_masks] - scores[n_masks:]
    return SampledValues(draws_QL.mean(axis=0), _standard_errors(draws_QL), draws_QL)


def removal_order(values: FloatArray, removable: MaskArray | None = None) -> IntArray:
    """Layers in ascending order of value, the first to go first; ties by index; protected layers last."""
    protected = np.zeros(len(values), dtype=bool) if removable is None else ~removable
    return np.lexsort((np.arange(len(values)), values, protected)).astype(np.int64)


def _standard_errors(draws: FloatArray) -> FloatArray:
    if len(draws) < 2:
        return np.full(draws.shape[1], np.nan)
    return draws.std(axis=0, ddof=1) / np.sqrt(len(draws))


def _batched(game: Game, masks: MaskArray) -> FloatArray:
    parts = [game(masks[start : start + _BATCH]) for start in range(0, len(masks), _BATCH)]
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])


def _n_players(game: Game, n_players: int | None) -> int:
    found = n_players if n_players is not None else getattr(game, "n_players", None)
    if found is None:
        raise ValueError("n_players is needed for a game without an n_players attribute")
    return int(found)

"""What the sampling estimators share: values with their draws, standard errors, batched games.

Shapes: L layers (players), M masks, P draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layershap.protocols import CountedGame, FloatArray, Game, MaskArray

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
        Marginal contributions, one for each draw and layer.
    """

    values: FloatArray
    standard_errors: FloatArray
    draws: FloatArray


def standard_errors(draws: FloatArray) -> FloatArray:
    """Standard errors of the means over independent draws [P, ...]; NaN from a single draw."""
    if len(draws) < 2:
        return np.full(draws.shape[1:], np.nan)
    return draws.std(axis=0, ddof=1) / np.sqrt(len(draws))


def batched(game: Game, masks: MaskArray) -> FloatArray:
    """Scores [M] of masks [M, L], in calls that fit in memory."""
    parts = [game(masks[start : start + _BATCH]) for start in range(0, len(masks), _BATCH)]
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])


def player_count(game: Game, n_players: int | None) -> int:
    """L, as given or as the game knows it."""
    found = game.n_players if n_players is None and isinstance(game, CountedGame) else n_players
    if found is None:
        raise ValueError("n_players is needed for a game without an n_players attribute")
    return int(found)

"""The game that the perplexity-based baselines play, and greedy elimination in it.

Shapes: M masks, L layers.
"""

from __future__ import annotations

import os

import numpy as np

from layershap.baselines.base import FitInput
from layershap.game import LayerGame
from layershap.protocols import Game, IntArray, MaskArray
from layershap.utilities import NegativeLogLikelihood


def perplexity_game(inputs: FitInput, ledger: str | os.PathLike[str] | None) -> LayerGame:
    """Scores are minus the mean NLL per token: the highest is the lowest perplexity.

    Raises
    ------
    ValueError
        The model with all its layers has no finite one.
    """
    game = LayerGame(
        inputs.found,
        inputs.calibration,
        utility=NegativeLogLikelihood(),
        ledger=ledger,
    )
    # Every score needs the whole model's statistics: asking for its own first costs nothing more.
    score = float(game(np.ones((1, game.n_players), dtype=bool))[0])
    if not np.isfinite(score):
        game.close()
        raise ValueError(
            f"the model with all its layers has no finite perplexity on this text (mean NLL {-score}): is the model "
            "sound, in this precision?"
        )
    return game


def leave_one_out_masks(removable: MaskArray) -> MaskArray:
    """One mask per removable layer, without it [M, L]."""
    return ~np.eye(len(removable), dtype=bool)[removable]


def greedy_order(game: Game, removable: MaskArray, n_remove: int) -> IntArray:
    """Remove `n_remove` players one by one, each time the one whose removal leaves the best score [n_remove]."""
    kept_L = np.ones(len(removable), dtype=bool)
    order: list[int] = []
    for _ in range(n_remove):
        candidates = np.flatnonzero(kept_L & removable)
        masks_ML = np.repeat(kept_L[None], len(candidates), axis=0)
        masks_ML[np.arange(len(candidates)), candidates] = False
        scores_M = np.nan_to_num(np.asarray(game(masks_ML)), nan=-np.inf)
        order.append(int(candidates[scores_M.argmax()]))
        kept_L[order[-1]] = False
    return np.array(order, dtype=np.int64)

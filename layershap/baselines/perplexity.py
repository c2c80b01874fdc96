"""The game that the perplexity-based baselines play."""

from __future__ import annotations

import os

import numpy as np

from layershap.baselines.base import FitInput
from layershap.game import LayerGame
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

"""The game that the perplexity-based baselines play."""

from __future__ import annotations

import os

from layershap.baselines.base import FitInput
from layershap.game import LayerGame
from layershap.utilities import NegativeLogLikelihood


def perplexity_game(inputs: FitInput, ledger: str | os.PathLike[str] | None) -> LayerGame:
    """Scores are minus the mean NLL per token: the highest is the lowest perplexity."""
    return LayerGame(
        inputs.found,
        inputs.calibration,
        utility=NegativeLogLikelihood(),
        ledger=ledger,
    )

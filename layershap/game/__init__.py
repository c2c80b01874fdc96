"""The cooperative game: masks of layers, scored on calibration text."""

from layershap.game.game import LayerGame
from layershap.game.players import GameModel
from layershap.game.progress import Progress

__all__ = ["GameModel", "LayerGame", "Progress"]

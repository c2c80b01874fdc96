"""Baselines that look at neither weights nor text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from layershap.baselines.base import FitInput, Outcome, RankingPruner
from layershap.model.stack import LayersArgument
from layershap.protocols import FloatArray
from layershap.random_state import random_generator


class RandomLayers(RankingPruner):
    """Remove layers in a random order.

    Parameters
    ----------
    n_remove : int or float, optional
        Layers that `transform` removes if it isn't told, or a fraction of them (0.25).
    random_state : int, RandomState, Generator or None
        Of the order.
    protect, layers, copy
        See `DepthPruner`.
    """

    def __init__(
        self,
        n_remove: int | float | None = None,
        *,
        random_state: Any = None,
        protect: Sequence[int] = (),
        layers: LayersArgument = None,
        copy: bool = True,
    ) -> None:
        super().__init__(n_remove, protect=protect, layers=layers, copy=copy)
        self.random_state = random_state

    def _importance(self, inputs: FitInput) -> tuple[FloatArray, Outcome]:
        return random_generator(self.random_state).permutation(len(inputs.stack)).astype(np.float64), Outcome()


class LastLayers(RankingPruner):
    """Remove the last n layers. Parameters and attributes: see `RankingPruner`."""

    def _importance(self, inputs: FitInput) -> tuple[FloatArray, Outcome]:
        return -np.arange(len(inputs.stack), dtype=np.float64), Outcome()

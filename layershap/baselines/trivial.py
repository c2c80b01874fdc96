"""Baselines that look at neither weights nor text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from layershap.baselines.base import FitInput, Outcome, RankingPruner
from layershap.compensation import Compensation
from layershap.model.stack import LayersArgument
from layershap.protocols import FloatArray
from layershap.random_state import random_generator


class RandomLayers(RankingPruner):
    """Remove layers in a random order.

    Parameters
    ----------
    n_remove : int or float, optional
        Number of layers that `transform` removes by default, or a fraction of all layers (0.25).
    random_state : int, RandomState, Generator or None, default=None
        Seed of the order.
    protect : sequence of int, default=()
        Layers that are never removed. Layers that can't be removed alone are protected in any case.
    layers : str, sequence of nn.Module or LayerStack, optional
        Where the layers are, if the rule can't know (`layershap.find_layers`); or the layers, if found before.
    copy : bool, default=True
        True makes `transform` prune a deep copy; False, the model that it is given.
    compensation : Compensation, optional
        Change of the kept layers' weights by which `transform` makes up for the removed ones
        (`layershap.compensation`).

    See Also
    --------
    LastLayers : Removes the last layers.
    """

    def __init__(
        self,
        n_remove: int | float | None = None,
        *,
        random_state: Any = None,
        protect: Sequence[int] = (),
        layers: LayersArgument = None,
        copy: bool = True,
        compensation: Compensation | None = None,
    ) -> None:
        super().__init__(n_remove, protect=protect, layers=layers, copy=copy, compensation=compensation)
        self.random_state = random_state

    def _importance(self, inputs: FitInput) -> tuple[FloatArray, Outcome]:
        return random_generator(self.random_state).permutation(len(inputs.stack)).astype(np.float64), Outcome()


class LastLayers(RankingPruner):
    """Remove the last layers.

    Parameters
    ----------
    n_remove : int or float, optional
        Number of layers that `transform` removes by default, or a fraction of all layers (0.25).
    protect : sequence of int, default=()
        Layers that are never removed. Layers that can't be removed alone are protected in any case.
    layers : str, sequence of nn.Module or LayerStack, optional
        Where the layers are, if the rule can't know (`layershap.find_layers`); or the layers, if found before.
    copy : bool, default=True
        True makes `transform` prune a deep copy; False, the model that it is given.
    compensation : Compensation, optional
        Change of the kept layers' weights by which `transform` makes up for the removed ones
        (`layershap.compensation`).

    See Also
    --------
    RandomLayers : Removes layers in a random order.
    AngularDistance : Chooses the best block of layers.
    """

    def _importance(self, inputs: FitInput) -> tuple[FloatArray, Outcome]:
        return -np.arange(len(inputs.stack), dtype=np.float64), Outcome()

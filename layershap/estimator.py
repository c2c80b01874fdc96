"""What every pruner is to scikit-learn and to its users once fitted: a transformer of models.

Shapes: L layers. True in a mask = layer kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from layershap.limits import check_n_remove
from layershap.model.sublayers import Players, PlayersArgument
from layershap.protocols import IntArray, MaskArray
from layershap.surgery import remove_players


class ModelPruner(TransformerMixin, BaseEstimator, ABC, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Base of `layershap.LayerPruner` and of the baselines: from a fitted choice of layers to a smaller model.

    Attributes
    ----------
    n_layers_in_ : int
        L.
    removable_ : ndarray [L] of bool
        False for protected layers.
    max_remove_ : int
        The most layers that `transform` can be asked for.
    """

    n_remove: Any  # int, fraction or None: checked where it is used
    copy: bool
    layers: PlayersArgument
    n_layers_in_: int
    removable_: MaskArray
    max_remove_: int

    def __init_subclass__(cls) -> None:
        # scikit-learn would wrap each subclass's `transform` to make arrays of what it returns.
        super().__init_subclass__(auto_wrap_output_keys=None)

    @abstractmethod
    def _players(self, model: nn.Module) -> Players:
        """The layers (or sublayers) of a model, as in `fit`."""

    @abstractmethod
    def _choose(self, n_remove: int) -> Sequence[int] | IntArray:
        """The layers to remove, in any order."""

    def transform(self, model: nn.Module, n_remove: int | float | None = None) -> nn.Module:
        """Remove the layers: a smaller, self-contained model (a copy, unless ``copy=False``).

        Parameters
        ----------
        model : nn.Module
            The fitted model or another with as many layers (quantised or fine-tuned since, say).
        n_remove : int or float, optional
            How many layers, or which fraction of all of them (0.25), rounded down to at least one. By default the
            constructor's.
        """
        layers = self.removed_layers(n_remove)
        players = self._players(model)
        if len(players) != self.n_layers_in_:
            raise ValueError(
                f"this {type(self).__name__} was fitted on a model of {self.n_layers_in_} players (layers, or "
                f"sublayers), the model given has {len(players)}; fit it on that model"
            )
        return remove_players(model, layers, players, copy=self.copy)

    def removed_layers(self, n_remove: int | float | None = None) -> list[int]:
        """Sorted indices of the layers that `transform` would remove."""
        check_is_fitted(self)
        count = check_n_remove(self.n_remove if n_remove is None else n_remove, self.removable_, self.max_remove_)
        return sorted(int(layer) for layer in self._choose(count))

    def get_support(self, n_remove: int | float | None = None, indices: bool = False) -> MaskArray | IntArray:
        """Which layers stay: a mask [L] (True = kept), or their indices."""
        removed = self.removed_layers(n_remove)
        support = np.ones(self.n_layers_in_, dtype=bool)
        support[removed] = False
        return np.flatnonzero(support) if indices else support

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # X is a model, not an array, and y its calibration data.
        tags.input_tags.two_d_array = False
        tags.target_tags.required = True
        tags.no_validation = True
        return tags

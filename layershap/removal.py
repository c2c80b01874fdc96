"""What every fitted pruner offers: which layers go, which stay, and the model without them.

Shapes: L layers (or sublayers).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from layershap.evaluation import check_n_remove
from layershap.protocols import IntArray, MaskArray
from layershap.splitting import find_players
from layershap.stack import LayersArgument
from layershap.sublayers import Granularity
from layershap.surgery import remove_players


class LayerRemover(TransformerMixin, BaseEstimator, ABC, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Base of a pruner: `fit` is its own, the rest follows from `_choose`.

    Its constructor has `n_remove`, `layers`, `granularity` and `copy`; `fit` sets `n_layers_in_`, `removable_` and
    `max_remove_`.
    """

    n_remove: int | None
    layers: LayersArgument
    granularity: Granularity
    copy: bool
    n_layers_in_: int
    removable_: MaskArray
    max_remove_: int

    @abstractmethod
    def _choose(self, n_remove: int) -> IntArray:
        """Sorted indices of the layers to remove."""

    def transform(self, model: nn.Module, n_remove: int | None = None) -> nn.Module:
        """Remove the layers: a smaller, self-contained model (a copy, unless ``copy=False``).

        Parameters
        ----------
        model : nn.Module
            The fitted model or another with as many layers (quantised or fine-tuned since, say).
        n_remove : int, optional
            By default the constructor's.
        """
        layers = self.removed_layers(n_remove)
        players = find_players(model, self.layers, self.granularity)
        if len(players) != self.n_layers_in_:
            raise ValueError(
                f"this pruner was fitted on a model of {self.n_layers_in_} {self.granularity}s, the model given has "
                f"{len(players)}; fit it on that model"
            )
        return remove_players(model, layers, players, copy=self.copy)

    def removed_layers(self, n_remove: int | None = None) -> list[int]:
        """Sorted indices of the layers that `transform` would remove."""
        check_is_fitted(self)
        count = check_n_remove(self.n_remove if n_remove is None else n_remove, self.removable_, self.max_remove_)
        return [int(layer) for layer in self._choose(count)]

    def get_support(self, n_remove: int | None = None, indices: bool = False) -> MaskArray | IntArray:
        """Which layers stay: a mask [L] (True = kept), or their indices."""
        removed = self.removed_layers(n_remove)
        support = np.ones(self.n_layers_in_, dtype=bool)
        support[removed] = False
        return np.flatnonzero(support) if indices else support

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.target_tags.required = True
        tags.no_validation = True
        return tags

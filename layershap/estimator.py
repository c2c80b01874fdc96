"""What every pruner is to scikit-learn and to its users once fitted: a transformer of models.

Shapes: L layers. True in a mask = layer kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted
from torch import nn

from layershap.calibration import Calibration
from layershap.compensation import Compensation
from layershap.compensation.compensating import Compensating
from layershap.limits import check_n_remove
from layershap.model.sublayers import Players, PlayersArgument
from layershap.protocols import IntArray, MaskArray
from layershap.surgery import remove_players


class ModelPruner(TransformerMixin, BaseEstimator, ABC, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Base of `layershap.LayerPruner` and of the baselines: from a fitted choice of layers to a smaller model.

    Attributes
    ----------
    n_layers_in_ : int
        Number of players L that `fit` saw: layers, or sublayers.
    removable_ : ndarray [L] of bool
        False for protected layers.
    max_remove_ : int
        Largest number of layers that `transform` accepts.
    calibration_ : Calibration or None
        Token ids that a compensation is measured on; None for a baseline that was fitted without one.
    """

    n_remove: Any  # int, fraction or None: checked where it is used
    copy: bool
    compensation: Compensation | None = None
    layers: PlayersArgument
    n_layers_in_: int
    removable_: MaskArray
    max_remove_: int
    calibration_: Calibration | None = None

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
        """Remove the chosen layers from a model.

        Parameters
        ----------
        model : nn.Module
            The fitted model, or another model with as many layers (quantised or fine-tuned since, say).
        n_remove : int or float, optional
            Number of layers to remove, or a fraction of all layers (0.25), rounded down to at least one layer. By
            default the constructor's `n_remove`.

        Returns
        -------
        nn.Module
            A smaller, self-contained model: a deep copy, or with ``copy=False`` the model given.

        Raises
        ------
        ValueError
            The model has another number of layers than the fitted one, or so many layers can't be removed.

        See Also
        --------
        layershap.remove_layers : Removes layers that you name.
        layershap.save_pruned : Saves the result.

        Notes
        -----
        A compensation is measured on the model that is given here, so its states are right also for one that was
        fine-tuned since `fit`.
        """
        layers = self.removed_layers(n_remove)
        players = self._players(model)
        if len(players) != self.n_layers_in_:
            raise ValueError(
                f"this {type(self).__name__} was fitted on a model of {self.n_layers_in_} players (layers, or "
                f"sublayers), the model given has {len(players)}; fit it on that model"
            )
        return remove_players(model, layers, players, copy=self.copy, compensating=kept_compensation(self))

    def removed_layers(self, n_remove: int | float | None = None) -> list[int]:
        """Return the layers that `transform` would remove.

        Parameters
        ----------
        n_remove : int or float, optional
            Number of layers, or a fraction of all layers. By default the constructor's `n_remove`.

        Returns
        -------
        list of int
            Sorted indices of the layers.
        """
        check_is_fitted(self)
        count = check_n_remove(self.n_remove if n_remove is None else n_remove, self.removable_, self.max_remove_)
        return sorted(int(layer) for layer in self._choose(count))

    def get_support(self, n_remove: int | float | None = None, indices: bool = False) -> MaskArray | IntArray:
        """Return the layers that `transform` would keep.

        Parameters
        ----------
        n_remove : int or float, optional
            Number of layers to remove, or a fraction of all layers. By default the constructor's `n_remove`.
        indices : bool, default=False
            True returns the indices of the kept layers in place of a mask.

        Returns
        -------
        ndarray
            Mask [L] (True = layer kept), or sorted indices.
        """
        removed = self.removed_layers(n_remove)
        support = np.ones(self.n_layers_in_, dtype=bool)
        support[removed] = False
        return np.flatnonzero(support) if indices else support

    def __sklearn_clone__(self) -> Any:
        """`sklearn.clone`: parameters are copied, modules in `layers` stay those of the model."""
        parameters = self.get_params(deep=False)
        layers = parameters.pop("layers")
        copied = type(self)(layers=layers, **{name: clone(value, safe=False) for name, value in parameters.items()})
        for name in ("_metadata_request", "_sklearn_output_config"):
            if hasattr(self, name):
                setattr(copied, name, deepcopy(getattr(self, name)))
        return copied

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # X is a model, not an array, and y its calibration data.
        tags.input_tags.two_d_array = False
        tags.target_tags.required = True
        tags.no_validation = True
        return tags


def kept_compensation(pruner: ModelPruner) -> Compensating | None:
    """A fitted pruner's compensation with the text that `fit` kept for it; None if it has none.

    Raises
    ------
    ValueError
        The pruner was fitted without a compensation, and so kept no text.
    """
    if pruner.compensation is None:
        return None
    if pruner.calibration_ is None:
        raise ValueError(
            f"this {type(pruner).__name__} was fitted without a compensation, so it kept no text to measure one on; "
            "fit it again, with compensation="
        )
    return Compensating(pruner.compensation, pruner.calibration_)

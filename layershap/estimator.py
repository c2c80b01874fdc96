"""What every pruner is to scikit-learn and to its users once fitted: a transformer of models.

Shapes: L layers. True in a mask = layer kept.
"""

from __future__ import annotations

import logging
import warnings
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
from layershap.environment import current_environment
from layershap.exceptions import TiedSelectionWarning
from layershap.limits import check_n_remove
from layershap.model.sublayers import Players, PlayersArgument, SublayerStack
from layershap.protocols import IntArray, MaskArray
from layershap.surgery import remove_players
from layershap.targets import RemovalCurve, RemovalPoint, RemovalSpeed, Target, TargetChoice
from layershap.targets.choice import checked_target, choose_removal
from layershap.targets.timing import measure_removals

_logger = logging.getLogger(__name__)


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
        Token ids that a compensation is measured on; None after a fit on a task, and for a baseline that was fitted
        without a compensation.
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

    def transform(
        self, model: nn.Module, n_remove: int | float | None = None, *, target: Target | str | None = None
    ) -> nn.Module:
        """Remove the chosen layers from a model.

        Parameters
        ----------
        model : nn.Module
            The fitted model, or another model with as many layers (quantised or fine-tuned since, say).
        n_remove : int or float, optional
            Number of layers to remove, or a fraction of all layers (0.25), rounded down to at least one layer. By
            default the constructor's `n_remove`.
        target : Target or str, optional
            What the result is to meet instead: one of `layershap.targets`, or its spelling ("parameters<=80M"). The log
            says what was chosen; `choose_n_remove` returns it.

        Returns
        -------
        nn.Module
            A smaller, self-contained model: a deep copy, or with ``copy=False`` the model given.

        Raises
        ------
        ValueError
            The model has another number of layers than the fitted one, or so many layers can't be removed; or both
            `n_remove` and `target` are given.
        UnreachableTargetError
            No removal meets the target; the message names the nearest.

        See Also
        --------
        choose_n_remove : What a target comes to.
        layershap.remove_layers : Removes layers that you name.
        layershap.save_pruned : Saves the result.

        Notes
        -----
        A compensation is measured on the model that is given here, so its states are right also for one that was
        fine-tuned since `fit`.
        """
        if target is not None:
            if n_remove is not None:
                raise ValueError(f"give either n_remove or target, got n_remove={n_remove!r} and target={target!r}")
            choice = self.choose_n_remove(model, target)
            _logger.info("%s", choice)
            n_remove = choice.n_remove
        layers = self.removed_layers(n_remove)
        players = self._players_as_fitted(model)
        return remove_players(model, layers, players, copy=self.copy, compensating=kept_compensation(self))

    def choose_n_remove(self, model: nn.Module, target: Target | str) -> TargetChoice:
        """Say which removal meets a target, and what it is expected to cost; nothing is removed.

        Parameters
        ----------
        model : nn.Module
            The model to prune, whose parameters are counted. On the meta device all targets but speeds can be met.
        target : Target or str
            One of `layershap.targets`, or its spelling ("parameters<=80M").

        Returns
        -------
        TargetChoice
            The smallest removal that meets a size or a speed, or the largest that keeps a perplexity.

        Raises
        ------
        UnreachableTargetError
            No removal meets the target; the message and its ``nearest`` name the one that comes nearest.
        ValueError
            The whole model meets it, or this method has no scores to read a perplexity from.

        See Also
        --------
        layershap.targets.choose_removal : How it is chosen.
        """
        check_is_fitted(self)
        checked_target(target)
        players = self._players_as_fitted(model)
        return choose_removal(target, self._curve(model, players), model, players)

    def measure_removal_speed(
        self,
        model: nn.Module,
        n_removes: Sequence[int] | None = None,
        *,
        batch_size: int = 1,
        prompt_tokens: int | None = None,
        new_tokens: int | None = None,
    ) -> RemovalSpeed:
        """Time the model without some numbers of layers, in turns, for `RemovalCurve.with_speed`.

        The models timed are physically pruned and share the weights of `model`, so they take no memory beside.

        Parameters
        ----------
        model : nn.Module
            The model to prune.
        n_removes : sequence of int, optional
            Numbers of layers. By default the middle one of those that can be removed, and the largest; the whole model
            is timed in any case.
        batch_size, prompt_tokens, new_tokens
            As in `layershap.targets.MaxLatency`.

        Returns
        -------
        RemovalSpeed
            What was measured; it estimates other depths.
        """
        check_is_fitted(self)
        known = self._known_counts()
        counts = (known[(len(known) - 1) // 2], known[-1]) if n_removes is None else n_removes
        depths = sorted({0, *(check_n_remove(n, self.removable_, self.max_remove_) for n in counts if n != 0)})
        players = self._players_as_fitted(model)
        records = measure_removals(
            model,
            players,
            [self.removed_layers(n_remove) if n_remove else [] for n_remove in depths],
            batch_size=batch_size,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
        )
        return RemovalSpeed(tuple(depths), tuple(records), current_environment(model))

    def _curve(self, model: nn.Module, players: Players) -> RemovalCurve:
        """What each number of layers comes to, as far as the method knows it: here the layers only."""
        names = players.names if isinstance(players, SublayerStack) else [str(layer) for layer in range(len(players))]
        with warnings.catch_warnings():
            # The user has not asked for a set yet.
            warnings.simplefilter("ignore", TiedSelectionWarning)
            sets = [(), *(tuple(self.removed_layers(n_remove)) for n_remove in self._known_counts())]
        points = [RemovalPoint(len(s), s, tuple(names[layer] for layer in s), 0, 0) for s in sets]
        return RemovalCurve(tuple(points), player="sublayer" if isinstance(players, SublayerStack) else "layer")

    def _known_counts(self) -> Sequence[int]:
        """The numbers of layers for which there is a set, ascending: here all from 1 to `max_remove_`."""
        return range(1, self.max_remove_ + 1)

    def _players_as_fitted(self, model: nn.Module) -> Players:
        players = self._players(model)
        if len(players) != self.n_layers_in_:
            raise ValueError(
                f"this {type(self).__name__} was fitted on a model of {self.n_layers_in_} players (layers, or "
                f"sublayers), the model given has {len(players)}; fit it on that model"
            )
        return players

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
        The pruner was fitted on a task, or is a baseline fitted without a compensation, and so kept no text.
    """
    if pruner.compensation is None:
        return None
    if pruner.calibration_ is None:
        raise ValueError(
            f"this {type(pruner).__name__} kept no text to measure a compensation on: it was fitted without one, or on "
            "a task, whose sequences hold wrong answers too. Fit it again, with compensation= and on text; or "
            "remove_layers(model, pruner.removed_layers(n), compensation=..., calibration=text)"
        )
    return Compensating(pruner.compensation, pruner.calibration_)

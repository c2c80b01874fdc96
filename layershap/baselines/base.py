"""What the baselines share: `fit` finds the layers, `transform` removes those that a method has chosen.

Shapes: L layers. True in `removable` = the layer may be removed.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from torch import nn

from layershap.calibration import Calibration, as_calibration
from layershap.compensation import Compensation
from layershap.compensation.compensating import Compensating, check_compensation
from layershap.estimator import ModelPruner
from layershap.game.players import GameModel
from layershap.limits import check_n_remove, most_removable, resolved_max_remove
from layershap.model.split import find_players
from layershap.model.stack import LayersArgument
from layershap.model.sublayers import Granularity, Players
from layershap.protocols import FloatArray, IntArray, MaskArray
from layershap.selection.validity import with_one_kept
from layershap.shapley import removal_order


@dataclass(frozen=True)
class FitInput:
    """What a method may look at.

    Attributes
    ----------
    found : GameModel
        The model, to be read only, with its players.
    removable : ndarray [L] of bool
        False for protected layers.
    n_remove : int, float or None
        The constructor's.
    calib_data, tokenizer : Any
        As given to `fit`; read them as `calibration`.
    """

    found: GameModel
    removable: MaskArray
    n_remove: Any
    calib_data: Any
    tokenizer: Any

    @property
    def model(self) -> nn.Module:
        """To be read only."""
        return self.found.model

    @property
    def stack(self) -> Players:
        """The model's players: the layers, or their sublayers."""
        return self.found.players

    @property
    def most(self) -> int:
        """The most layers that can be removed: all removable ones, but one layer stays."""
        return most_removable(int(self.removable.sum()), len(self.removable))

    def checked_max_remove(self, max_remove: Any) -> int:
        """How many layers a search goes up to: `most` unless told otherwise.

        Raises
        ------
        ValueError, TypeError
            Not an int in [1, `most`], or less than the constructor's `n_remove`.
        """
        limit = self.most
        if max_remove is not None:
            limit = resolved_max_remove(max_remove, int(self.removable.sum()), len(self.removable))
        wanted = self.checked_n_remove()
        if wanted is not None and wanted > limit:
            raise ValueError(
                f"n_remove={self.n_remove} exceeds max_remove={limit}, the most layers that fit looks for; give "
                f"max_remove={wanted}"
            )
        return limit

    def checked_n_remove(self) -> int | None:
        """The constructor's `n_remove` as a number of layers, so that `transform` has nothing left to refuse.

        Raises
        ------
        ValueError, TypeError
            Neither an int in [1, `most`] nor a fraction.
        """
        return None if self.n_remove is None else check_n_remove(self.n_remove, self.removable)

    def check_some_removable(self, causes: str) -> None:
        """Raise a ValueError that names what may be why, unless a layer can be removed."""
        if self.most < 1:
            raise ValueError(
                f"one layer must be removable and another stay; {int(self.removable.sum())} of this model's "
                f"{len(self.removable)} layers are removable, see {causes}"
            )

    @cached_property
    def calibration(self) -> Calibration:
        """Token blocks; an error if `fit` was given none."""
        return as_calibration(self.calib_data, self.tokenizer)


@dataclass(frozen=True)
class Outcome:
    """What a fit has spent, and how far it went.

    Attributes
    ----------
    masks : int
        Masked models evaluated.
    layer_runs : int
        Runs of one layer on the whole calibration set; a backward pass counts as two forward ones.
    max_remove : int, optional
        The most layers that the method can now choose; None if as many as are removable.
    """

    masks: int = 0
    layer_runs: int = 0
    max_remove: int | None = None


class DepthPruner(ModelPruner, ABC):
    """Base of all baselines: a method implements `_fit` and `_select`.

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

    Attributes
    ----------
    n_layers_in_ : int
        Number of layers L.
    removable_ : ndarray [L] of bool
        False for protected layers.
    keep_one_of_ : tuple of tuple of int
        Groups of layers of which one always stays (the attention layers of a hybrid).
    max_remove_ : int
        Largest number of layers that `transform` accepts.
    diagnostics_ : dict
        ``n_evaluated`` (number of masked models), ``layer_runs`` (number of runs of one layer on the whole calibration
        set; a backward pass counts as two forward ones), ``seconds``.

    See Also
    --------
    layershap.LayerPruner : Prunes by Shapley values.
    layershap.compare : Fits several methods on one model.
    """

    _granularity: ClassVar[Granularity] = "layer"

    def __init__(
        self,
        n_remove: int | float | None = None,
        *,
        protect: Sequence[int] = (),
        layers: LayersArgument = None,
        copy: bool = True,
        compensation: Compensation | None = None,
    ) -> None:
        self.n_remove = n_remove
        self.protect = protect
        self.layers = layers
        self.copy = copy
        self.compensation = compensation

    @abstractmethod
    def _fit(self, inputs: FitInput) -> Outcome:
        """Learn what `_select` needs. May clear entries of ``inputs.removable``."""

    @abstractmethod
    def _select(self, n_remove: int) -> Sequence[int] | IntArray:
        """The layers to remove, in any order."""

    def fit(self, model: nn.Module, calib_data: Any = None, *, tokenizer: Any = None) -> Self:
        """Rate the layers; the model is only read, and not kept.

        Parameters
        ----------
        model : nn.Module
            Causal language model.
        calib_data : Calibration, Tensor [S, T], texts, datasets.Dataset, DataLoader or iterable of batches
            See `layershap.calibration.as_calibration`; methods that look at no text ignore it.
        tokenizer : PreTrainedTokenizerBase, optional
            The model's tokenizer, which texts need.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            No layer can be removed, or not `n_remove` of them; or the model has no finite activations or scores.
        """
        start = time.perf_counter()
        check_compensation(self.compensation)
        found = GameModel.of(model, self.layers, self._granularity)
        removable = found.removable(self.protect)
        inputs = FitInput(found, removable, self.n_remove, calib_data, tokenizer)
        inputs.check_some_removable(f"protect={self.protect!r} and layershap.inspect(model)")
        inputs.checked_n_remove()
        if self.compensation is not None:
            Compensating(self.compensation, inputs.calibration).check(model, found.players)
        outcome = self._fit(inputs)
        self.n_layers_in_ = len(found.players)
        self.removable_ = removable
        self.keep_one_of_ = found.keep_one_of
        self.max_remove_ = inputs.most if outcome.max_remove is None else outcome.max_remove
        self.calibration_ = None if self.compensation is None else inputs.calibration
        self.diagnostics_ = {
            "n_evaluated": outcome.masks,
            "layer_runs": outcome.layer_runs,
            "seconds": time.perf_counter() - start,
        }
        return self

    def _players(self, model: nn.Module) -> Players:
        return find_players(model, self.layers, self._granularity)

    def _choose(self, n_remove: int) -> IntArray:
        # A hybrid keeps one attention layer: where the method would remove them all, the first stays and the deepest
        # other layer goes.
        depth = -np.arange(self.n_layers_in_, dtype=float)
        return with_one_kept(self._select(n_remove), self.keep_one_of_, depth, self.removable_)


def check_finite(ratings: FloatArray) -> None:
    """Raise unless all ratings are numbers: a layer that can't be rated would be kept, or removed, for no reason."""
    if np.isnan(ratings).any():
        raise ValueError(
            f"{int(np.isnan(ratings).sum())} of {ratings.size} ratings are NaN: is the model sound on this text, in "
            "this precision?"
        )


class RankingPruner(DepthPruner, ABC):
    """Base of the methods that rate each layer once and remove the lowest rated layers.

    Parameters
    ----------
    n_remove, protect, layers, copy, compensation
        As in `DepthPruner`.

    Attributes
    ----------
    importance_ : ndarray [L]
        Rating of each layer; NaN for protected layers.
    removal_order_ : ndarray [L]
        Layers by ascending rating, protected layers last.
    """

    @abstractmethod
    def _importance(self, inputs: FitInput) -> tuple[FloatArray, Outcome]:
        """Ratings [L], lowest removed first, and what they cost."""

    def _fit(self, inputs: FitInput) -> Outcome:
        importance, outcome = self._importance(inputs)
        check_finite(importance[inputs.removable])
        self.importance_ = np.where(inputs.removable, importance, np.nan)
        self.removal_order_ = removal_order(self.importance_, inputs.removable)
        return outcome

    def _select(self, n_remove: int) -> IntArray:
        return self.removal_order_[:n_remove]

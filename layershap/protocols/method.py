"""What a pruning method is to `layershap.comparison.compare`.

Shapes: L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:  # the protocols know no torch
    from torch import nn


@runtime_checkable
class PruningMethod(Protocol):
    """Looks at a model and its calibration data. `LayerPruner` and `layershap.baselines` qualify.

    A method is a `DepthPruningMethod` or a `NarrowingMethod` besides. What its `fit` learns is kept in attributes that
    end in an underscore, as scikit-learn's do, which tells a fitted method.
    """

    def fit(self, model: nn.Module, calib_data: Any = None, *, tokenizer: Any = None) -> Any:
        """Look at `model`, which is only read, and at `calib_data`, whose texts need a `tokenizer`.

        Called when `compare` gets a method that is not fitted, on a copy of it.
        """
        ...


@runtime_checkable
class ChoosesLayers(Protocol):
    """Something fitted that says which layers it would remove."""

    def removed_layers(self, n_remove: int | None = None) -> Sequence[int]:
        """The `n_remove` layers to remove; a ValueError says why so many can't be removed.

        Called when all methods are fitted, for each number of layers asked for.
        """
        ...


@runtime_checkable
class DepthPruningMethod(PruningMethod, ChoosesLayers, Protocol):
    """A method that chooses whole layers; all methods' sets are scored together, as masks of one game."""


@runtime_checkable
class NarrowingMethod(PruningMethod, Protocol):
    """A method that makes the model smaller in another way than by whole layers, as `SliceGPT` does."""

    def transform(self, model: nn.Module, n_remove: int | None = None) -> nn.Module:
        """A smaller model, of about as many parameters as without `n_remove` layers.

        Called when a method has no `removed_layers`, for each number asked for; what it returns is measured.
        """
        ...


@runtime_checkable
class ReportsCosts(Protocol):
    """A fitted method that says what its fit took."""

    @property
    def diagnostics_(self) -> Mapping[str, Any]:
        """Where known ``n_evaluated`` (masks), ``layer_runs`` (on the whole calibration set) and ``seconds``.

        Read when the method is fitted, for the columns of the table.
        """
        ...


@runtime_checkable
class CountsLayers(Protocol):
    """A fitted method that knows how many players it chose among."""

    @property
    def n_layers_in_(self) -> int:
        """The number of layers L, or of sublayers.

        Read when the method is fitted: one that chose among other players than the model's layers is refused.
        """
        ...

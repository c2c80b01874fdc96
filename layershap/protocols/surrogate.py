"""What a surrogate is: a regression from masks to scores, and what it may know beyond predictions.

Shapes: M masks, L layers (here the removable ones), B vectors of scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from layershap.protocols.arrays import FloatArray, MaskArray


@runtime_checkable
class Surrogate(Protocol):
    """A regression from masks to scores: any scikit-learn regressor qualifies."""

    def fit(self, masks: MaskArray, scores: FloatArray) -> Any:
        """Fit on `masks` [M, L] and `scores` [M], all of them finite, and forget an earlier fit.

        Called when the search proposes sets, then for each fold of a cross-validation and on all masks drawn; once
        before anything is paid for, on made-up scores. Always on a copy.
        """
        ...

    def predict(self, masks: MaskArray) -> FloatArray:
        """Predicted scores [M] of `masks` [M, L].

        Called when sets are proposed, when held-out masks are judged, and for values without a closed form.
        """
        ...


@runtime_checkable
class ClosedFormSurrogate(Surrogate, Protocol):
    """A surrogate that knows its own Shapley values; those of all others are sampled from `predict`."""

    def shapley_values(self, strata: Sequence[int] | None = None) -> FloatArray:
        """Values [L]: Shapley's if `strata` is None, else marginal contributions averaged over these sizes.

        Called when values are estimated, on the surrogate of each fold, and by ``contributions_at`` for other sizes.
        """
        ...


@runtime_checkable
class InteractionSurrogate(Surrogate, Protocol):
    """A surrogate that knows the pairwise interactions of its predictions."""

    def interaction_values(self, strata: Sequence[int] | None = None) -> FloatArray:
        """Pairwise interactions [L, L], symmetric: over all sizes alike, or averaged over those of `strata`.

        Called when ``interactions_`` of a fitted pruner is first read; it is None for other surrogates.
        """
        ...


@runtime_checkable
class RefittableSurrogate(Surrogate, Protocol):
    """A surrogate that is linear in the scores: refitting it to many resamples of them is cheap."""

    def refitted_values(self, masks: MaskArray, scores: FloatArray, strata: Sequence[int] | None = None) -> FloatArray:
        """Values [B, L] over `strata` for B other score vectors `scores` [B, M] of the same `masks` [M, L].

        Called when the values' errors by the calibration text are estimated; they are NaN for other surrogates.
        """
        ...

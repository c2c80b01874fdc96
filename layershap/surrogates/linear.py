"""Ridge regression on removed layers.

Shapes: M masks, L layers, B vectors of scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from layershap.protocols import FloatArray, MaskArray
from layershap.surrogates.ridge import fit_ridge, refit_ridge


class LinearRidge(RegressorMixin, BaseEstimator):
    """Ridge regression on the removed layers: ``f(m) = b + sum_i a_i r_i`` with ``r = 1 - m``.

    A layer is worth the same in any company, so its value is ``-a_i`` over any strata. The model needs few masks.

    Parameters
    ----------
    alphas : sequence of float, optional
        Penalties tried by leave-one-out cross-validation.

    Attributes
    ----------
    main_effects_ : ndarray [L]
        Effects ``a`` of the removals.
    intercept_ : float
        Intercept ``b``: the predicted score of the intact model.
    alpha_ : float
        Penalty chosen.

    See Also
    --------
    PairwiseRidge : Adds the interactions of pairs.
    HammingProcess : Assumes no order of interaction.
    """

    def __init__(self, alphas: Sequence[float] | None = None) -> None:
        self.alphas = alphas

    def fit(self, masks: MaskArray, scores: FloatArray) -> LinearRidge:
        """Fit on masks [M, L] and scores [M]."""
        features_ML = _features(masks)
        self.n_features_in_ = features_ML.shape[1]
        self.alpha_, self.intercept_, self.main_effects_ = fit_ridge(features_ML, np.asarray(scores), self.alphas)
        return self

    def predict(self, masks: MaskArray) -> FloatArray:
        """Predicted scores [M] of `masks` [M, L]."""
        check_is_fitted(self)
        return self.intercept_ + _features(masks) @ self.main_effects_

    def shapley_values(self, strata: Sequence[int] | None = None) -> FloatArray:
        """Values [L], which are the same over all `strata`."""
        check_is_fitted(self)
        return -self.main_effects_

    def interaction_values(self, strata: Sequence[int] | None = None) -> FloatArray:
        """Pairwise interactions [L, L]: all 0, over any `strata`."""
        check_is_fitted(self)
        return np.zeros((self.n_features_in_, self.n_features_in_))

    def refitted_values(self, masks: MaskArray, scores: FloatArray, strata: Sequence[int] | None = None) -> FloatArray:
        """Values [B, L] for B other score vectors `scores` [B, M] of the same `masks` [M, L], with the penalty of the
        fit.

        They are the same over all `strata`. `LayerPruner` bootstraps the calibration sequences with them.
        """
        check_is_fitted(self)
        return -refit_ridge(_features(masks), scores, self.alpha_)


def _features(masks: MaskArray) -> FloatArray:
    return (~np.asarray(masks, dtype=bool)).astype(np.float64)

"""Ridge regression with the penalty chosen by leave-one-out cross-validation, shared by the closed-form surrogates.

Shapes: M masks, F features, B vectors of scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import Ridge, RidgeCV

from layershap.protocols import FloatArray

ALPHAS = tuple(np.logspace(-4, 2, 13))
"""Penalties tried by default."""


def fit_ridge(
    features_MF: FloatArray, scores_M: FloatArray, alphas: Sequence[float] | None
) -> tuple[float, float, FloatArray]:
    """The penalty chosen, the intercept and the coefficients [F].

    Raises
    ------
    ValueError
        No penalty to try, or one that isn't a positive number.
    """
    penalties = np.asarray(ALPHAS if alphas is None else alphas)
    if penalties.ndim != 1 or not penalties.size:
        raise ValueError(
            f"alphas must hold at least one penalty, got {alphas!r}; write (1.0,) for one, None tries {len(ALPHAS)}"
        )
    numbers = np.issubdtype(penalties.dtype, np.number) and not np.iscomplexobj(penalties)
    if not numbers or not (np.isfinite(penalties) & (penalties > 0)).all():
        raise ValueError(f"alphas must be positive numbers, got {alphas!r}")
    ridge = RidgeCV(alphas=penalties).fit(features_MF, scores_M)
    return float(ridge.alpha_), float(ridge.intercept_), np.asarray(ridge.coef_)


def refit_ridge(features_MF: FloatArray, scores_BM: FloatArray, alpha: float) -> FloatArray:
    """Coefficients [B, F] for other scores of the same masks, with the penalty as it is: one factorisation for all."""
    return np.atleast_2d(Ridge(alpha=alpha).fit(features_MF, scores_BM.T).coef_)

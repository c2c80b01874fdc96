"""A small ensemble that says how sure it is.

Shapes: M masks, L layers, E members.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from layershap.limits import check_int
from layershap.protocols import FloatArray, MaskArray, Surrogate
from layershap.surrogates.fresh import fresh_surrogate
from layershap.surrogates.pairwise import PairwiseRidge


class BootstrapEnsemble(RegressorMixin, BaseEstimator):
    """The same surrogate fitted to bootstrap resamples of the masks; the mean of the members is the prediction.

    The spread of the members tells how sure a prediction is. The values are averaged from the predictions, as for any
    regressor without a closed form.

    Parameters
    ----------
    surrogate : Surrogate, default=PairwiseRidge()
        Surrogate that is cloned for each member.
    n_members : int, default=10
        Number of members E, at least 2.
    random_state : int, RandomState or None, default=None
        Seed of the resamples. `LayerPruner` seeds it if it is None.

    Attributes
    ----------
    members_ : list of Surrogate
        The E fitted members.

    See Also
    --------
    HammingProcess : Has a spread of its own, and values in closed form.

    References
    ----------
    Breiman, Bagging predictors, 1996.
    """

    def __init__(self, surrogate: Surrogate | None = None, *, n_members: int = 10, random_state: Any = None) -> None:
        self.surrogate = surrogate
        self.n_members = n_members
        self.random_state = random_state

    def fit(self, masks: MaskArray, scores: FloatArray) -> BootstrapEnsemble:
        """Fit on masks [M, L] and scores [M]."""
        check_int("BootstrapEnsemble's n_members", self.n_members, 2, meaning="a spread needs two")
        masks_ML, scores_M = np.asarray(masks, dtype=bool), np.asarray(scores, dtype=np.float64)
        random = check_random_state(self.random_state)
        prototype = PairwiseRidge() if self.surrogate is None else self.surrogate
        self.members_ = []
        for _ in range(self.n_members):
            rows = random.randint(len(scores_M), size=len(scores_M))
            member = fresh_surrogate(prototype, int(random.randint(2**31)))
            member.fit(masks_ML[rows], scores_M[rows])
            self.members_.append(member)
        self.n_features_in_ = masks_ML.shape[1]
        return self

    def predict(self, masks: MaskArray) -> FloatArray:
        """Predicted scores [M] of `masks` [M, L]: means over the members."""
        return self._predictions(masks).mean(axis=0)

    def predict_spread(self, masks: MaskArray) -> FloatArray:
        """Standard deviations [M] of the members' predictions for `masks` [M, L]."""
        return self._predictions(masks).std(axis=0, ddof=1)

    def _predictions(self, masks: MaskArray) -> FloatArray:
        check_is_fitted(self)
        return np.array([member.predict(masks) for member in self.members_])

"""The best of several surrogates, by cross-validation.

Shapes: M masks, L layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from layershap.limits import is_int
from layershap.protocols import FloatArray, MaskArray, Surrogate
from layershap.surrogates.folds import held_out_r2
from layershap.surrogates.fresh import fresh_surrogate
from layershap.surrogates.hamming_process import HammingProcess
from layershap.surrogates.linear import LinearRidge
from layershap.surrogates.pairwise import PairwiseRidge

_OF_THE_CHOSEN = ("shapley_values", "interaction_values", "refitted_values", "predict_spread")


class BestSurrogate(RegressorMixin, BaseEstimator):
    """The surrogate, among several, that best predicts masks it has not seen.

    `fit` cross-validates each candidate over five folds of distinct masks, and fits the candidate with the highest
    held-out R2 to all masks. Ties go to the first candidate. After `fit`, the methods ``shapley_values``,
    ``interaction_values``, ``refitted_values`` and ``predict_spread`` are those of the chosen surrogate, and missing
    where it has none. A fit costs five fits of each candidate and one more.

    Parameters
    ----------
    candidates : sequence of Surrogate, optional
        Surrogates to choose among, the simplest first; they are cloned. By default `LinearRidge`, `PairwiseRidge` and
        `HammingProcess`; `PaperMLP` needs thousands of masks, and a hundred times their time.
    random_state : int, RandomState or None, default=None
        Seed of the folds, and of candidates that are random and have none. `LayerPruner` seeds it if it is None.

    Attributes
    ----------
    chosen_ : Surrogate
        Chosen surrogate, fitted to all masks.
    scores_ : dict of str to float
        Held-out R2 of each candidate by its class's name, numbered where a class comes twice; NaN where all scores that
        were held out are the same, -inf for a candidate that predicts numbers that aren't finite.

    See Also
    --------
    BootstrapEnsemble : The same surrogate several times, which tells how sure it is.

    Examples
    --------
    >>> import numpy as np
    >>> from layershap import BestSurrogate, LinearRidge, PairwiseRidge
    >>> masks = np.random.default_rng(0).random((80, 6)) < 0.7
    >>> scores = masks[:, 0] + 0.5 * (masks[:, 1] & masks[:, 2])
    >>> best = BestSurrogate([LinearRidge(), PairwiseRidge()], random_state=0).fit(masks, scores)
    >>> type(best.chosen_).__name__
    'PairwiseRidge'
    """

    def __init__(self, candidates: Sequence[Surrogate] | None = None, *, random_state: Any = None) -> None:
        self.candidates = candidates
        self.random_state = random_state

    def fit(self, masks: MaskArray, scores: FloatArray) -> BestSurrogate:
        """Choose a candidate and fit it on masks [M, L] and scores [M].

        Raises
        ------
        ValueError
            No candidates.
        TypeError
            Candidates that are no surrogates, or don't predict one number for each mask.
        """
        candidates = _default_candidates() if self.candidates is None else _checked(self.candidates)
        masks_ML, scores_M = np.asarray(masks, dtype=bool), np.asarray(scores, dtype=np.float64)
        seed = self.random_state
        if not is_int(seed):
            seed = check_random_state(seed).randint(2**31)
        seed = int(seed)
        r2 = [held_out_r2(candidate, masks_ML, scores_M, seed) for candidate in candidates]
        best = candidates[int(np.argmax(np.nan_to_num(r2, nan=-np.inf)))]
        self.chosen_: Any = fresh_surrogate(best, seed)
        self.chosen_.fit(masks_ML, scores_M)
        self.scores_ = dict(zip(_names(candidates), r2, strict=True))
        self.n_features_in_ = masks_ML.shape[1]
        for name in _OF_THE_CHOSEN:
            # On the instance, so that whether it is there says what the chosen surrogate can do.
            self.__dict__.pop(name, None)
            if hasattr(self.chosen_, name):
                setattr(self, name, getattr(self.chosen_, name))
        return self

    def predict(self, masks: MaskArray) -> FloatArray:
        """Predicted scores [M] of `masks` [M, L] by the chosen surrogate."""
        check_is_fitted(self)
        return np.asarray(self.chosen_.predict(masks))


def _checked(candidates: Any) -> list[Surrogate]:
    if isinstance(candidates, str | Mapping) or not isinstance(candidates, Iterable):
        raise TypeError(
            f"candidates must be a sequence of surrogates, such as [LinearRidge(), PairwiseRidge()]; got {candidates!r}"
        )
    found = list(candidates)
    if not found:
        raise ValueError("BestSurrogate needs at least one candidate, got an empty sequence; None tries three")
    for candidate in found:
        if isinstance(candidate, type) or not isinstance(candidate, Surrogate):
            raise TypeError(f"candidates must be objects with fit and predict, got {candidate!r}")
    return found


def _default_candidates() -> list[Surrogate]:
    return [LinearRidge(), PairwiseRidge(), HammingProcess()]


def _names(candidates: Sequence[Surrogate]) -> list[str]:
    """Class names, numbered where a class comes twice."""
    classes = [type(candidate).__name__ for candidate in candidates]
    return [f"{c}-{classes[: i + 1].count(c)}" if classes.count(c) > 1 else c for i, c in enumerate(classes)]

"""What a fit found, by the names that users know.

Shapes: L layers, M masks, N numbers of layers removed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted
from torch import nn

from layershap.environment import Environment
from layershap.estimator import ModelPruner
from layershap.exceptions import ValueQualityWarning
from layershap.fitting.diagnostics import Diagnostics
from layershap.fitting.final_choice import SetComparison
from layershap.fitting.result import FitResult as FitResult
from layershap.inspection import ModelInspection
from layershap.limits import check_n_remove
from layershap.model.split import find_players
from layershap.model.sublayers import Granularity, Players
from layershap.protocols import FloatArray, IntArray, MaskArray, Selector, Surrogate
from layershap.random_state import random_generator
from layershap.selection import SurrogateSearch
from layershap.selection.validity import select_layers, sets_by_size
from layershap.shapley import removal_order
from layershap.targets import RemovalCurve
from layershap.warning import warn_user


class FittedPruner(ModelPruner):
    """The fitted attributes of `layershap.LayerPruner`, read from its `result_`."""

    result_: FitResult
    granularity: Granularity
    keep_one_of_: tuple[tuple[int, ...], ...]
    selector: Selector | None
    random_state: Any
    ledger: Any

    @property
    def _result(self) -> FitResult:
        check_is_fitted(self, "result_")
        return self.result_

    def _keep(self, result: FitResult) -> None:
        self.result_ = result
        self.n_layers_in_ = len(result.evidence.removable)
        self.max_remove_ = result.evidence.max_remove
        self.removable_ = result.evidence.removable
        self.keep_one_of_ = result.evidence.keep_one_of
        self.calibration_ = result.calibration

    def _players(self, model: nn.Module) -> Players:
        return find_players(model, self.layers, self.granularity, causal=False)

    @property
    @abstractmethod
    def removal_curve_(self) -> RemovalCurve:
        """What every number of layers comes to."""

    def _curve(self, model: nn.Module, players: Players) -> RemovalCurve:
        return self.removal_curve_

    @property
    def _selector(self) -> Selector:
        return SurrogateSearch() if self.selector is None else self.selector

    def _choose(self, n_remove: int) -> Sequence[int] | IntArray:
        return select_layers(self._selector, self._result.selection, n_remove)

    @property
    def contributions_(self) -> FloatArray:
        """Value of each layer [L].

        NaN for protected layers, which are no players. Of a veto player NaN where fewer than four masks for each veto
        player were drawn for the values (`n_masks` too small), or where the score without it isn't finite.
        """
        return self._result.contributions.values

    @property
    def contributions_std_(self) -> FloatArray:
        """Standard errors of the values [L].

        They hold the error by the masks that were drawn and, where the surrogate can be refitted cheaply
        (`HammingProcess`, the ridges), the error by the calibration sequences. `diagnostics_` has the two apart. NaN
        where too few masks were drawn to tell.
        """
        return self._result.contributions.standard_errors

    @property
    def veto_players_(self) -> IntArray:
        """Layers without which the model is lost, kept in the masks drawn for the values.

        The value of a veto player is what the coalitions of the other layers score with it, less what they score
        without it.
        """
        return np.flatnonzero(self._result.contributions.veto)

    @property
    def interactions_(self) -> FloatArray | None:
        """Pairwise interactions [L, L] of the surrogate over the values' coalitions; None if it knows none.

        NaN for protected layers and veto players. Computed when first asked for, which takes seconds on many layers.
        """
        return self._result.contributions.interactions

    @property
    def removal_scores_(self) -> FloatArray:
        """Score of the set of n layers that `transform` removes, for n = 1 to N.

        The score is on the text held back from the search, or else on all text searched; NaN if the set was not scored
        there. After ``set_params(selector=...)`` the sets, and so the scores, are those of the new selector.
        """
        result = self._result
        return result.removal_scores(sets_by_size(self._selector, result.selection, result.evidence.max_remove))

    @property
    def removal_probabilities_(self) -> FloatArray:
        """How often each layer is among the n removed when the calibration sequences are resampled [N, L].

        Row n - 1 is for n layers. The choice among the best sets is made again on each resample, by the selector that
        `fit` had. The row is NaN where the sequences can't be resampled.
        """
        return self._result.removal_probabilities

    @property
    def removal_order_(self) -> IntArray:
        """Layers by ascending value [L], protected ones last."""
        return removal_order(self._result.contributions.values, self._result.evidence.removable)

    @property
    def masks_(self) -> MaskArray:
        """Masks evaluated [M, L]: the leave-one-outs and the sampler's draws, then what only the selector asked for."""
        return self._result.evidence.masks

    @property
    def scores_(self) -> FloatArray:
        """Scores of `masks_` [M], each on the part of the text that its mask was scored on; not all need be finite."""
        return self._result.evidence.scores

    @property
    def predictions_(self) -> FloatArray:
        """Held-out predictions of the scores [M].

        NaN for what was not drawn at random, and where the score is not finite.
        """
        return self._result.contributions.predictions

    @property
    def final_masks_(self) -> MaskArray | None:
        """Row n - 1: the set of n layers chosen on text held back from the search [N, L]; None if none was.

        All True where no set of n layers was evaluated.
        """
        return self._result.selection.final_masks

    @property
    def comparisons_(self) -> list[SetComparison | None] | None:
        """For each n, the score of the chosen set on the text held back, and its leads over other sets [N].

        The leads are those over greedy's set and over the second best set, with standard errors.
        """
        return self._result.comparisons

    @property
    def baseline_score_(self) -> float:
        """Score of the model with all its layers, on the text that values are estimated on."""
        return self._result.evidence.baseline

    @property
    def surrogate_(self) -> Surrogate:
        """The surrogate, fitted on the columns of the removable layers."""
        return self._result.contributions.surrogate

    @property
    def diagnostics_(self) -> Diagnostics:
        """Cost and quality of the fit (`layershap.fitting.diagnostics.Diagnostics`)."""
        return self._result.diagnostics

    @property
    def fingerprint_(self) -> dict[str, Any]:
        """Everything that the scores depend on, as plain JSON values."""
        return self._result.fingerprint

    @property
    def inspection_(self) -> ModelInspection:
        """The model's layers and sizes."""
        return self._result.inspection

    @property
    def environment_(self) -> Environment:
        """Versions and machine of the fit."""
        return self._result.environment

    def contributions_at(
        self, n_remove: int, width: int = 1, *, return_std: bool = False
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """Values at one depth: marginal contributions over masks that lack `n_remove` layers, give or take `width`.

        The values are estimated like `contributions_`, from the masks drawn of those sizes and the surrogate; no model
        is run. They are NaN for protected layers and veto players.

        Parameters
        ----------
        n_remove : int
            Number of removed layers: the depth. Where values keep veto players, at most all but one of the other
            layers; more counts as that.
        width : int, default=1
            Number of sizes on either side that are averaged too.
        return_std : bool, default=False
            True returns standard errors as well.

        Returns
        -------
        values : ndarray [L]
            Values at this depth.
        standard_errors : ndarray [L]
            Only with `return_std`: errors by the masks drawn and by the text, like `contributions_std_`; NaN where no
            mask of a needed size was drawn, so that the value rests on the surrogate alone. (Values with
            ``unbiased=False`` always do: theirs are the spread of the folds' surrogates.)

        Warns
        -----
        ValueQualityWarning
            No mask of a needed size was drawn.
        """
        count = check_n_remove(n_remove, self._result.evidence.removable)
        seed = int(random_generator(self.random_state).integers(2**31))
        values, errors, missing = self._result.contributions.at(count, width, seed)
        if missing:
            warn_user(
                f"no mask was drawn that keeps {list(missing)} of the layers that play: values at this depth rest on "
                "the surrogate alone, and their error is unknown. Ask for a depth that was sampled "
                "(diagnostics_['strata']), or raise n_masks.",
                ValueQualityWarning,
            )
            errors = np.full_like(errors, np.nan)
        return (values, errors) if return_std else values

"""What `fit` is asked for, resolved and checked once, before anything is paid for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sklearn.base import clone

from layershap.calibration import Calibration, as_calibration
from layershap.fitting.masks import check_confidence, check_parts, try_surrogate
from layershap.fitting.text import TextParts, split_text
from layershap.fitting.values import check_weights
from layershap.protocols import HoldsBack, Sampler, SearchingSelector, Selector, Surrogate, Utility, Weights
from layershap.samplers import StratifiedSampler
from layershap.selection import SurrogateSearch
from layershap.surrogates import HammingProcess
from layershap.tasks import Task
from layershap.tasks.data import UtilityLike
from layershap.utilities.mixture import tied_to_sequences

if TYPE_CHECKING:
    from layershap.pruner import LayerPruner


@dataclass(frozen=True)
class Request:
    """What `fit` was asked for, its parts resolved.

    Attributes
    ----------
    sampler, surrogate, selector
        The parts; the sampler is a copy that may learn.
    weights, n_masks, max_remove, n_remove, protect, keep_veto, confidence, unbiased, n_marginals
        As `LayerPruner` describes them.
    """

    sampler: Sampler
    surrogate: Surrogate | Literal["auto"]
    selector: Selector
    weights: Weights
    n_masks: int | None
    max_remove: int | None
    n_remove: int | None
    protect: Sequence[int]
    keep_veto: bool
    confidence: float
    unbiased: bool
    n_marginals: int

    @classmethod
    def of(cls, pruner: LayerPruner) -> Request:
        """The pruner's parameters with defaults in place of None.

        Raises
        ------
        TypeError, ValueError
            A part lacks a method of its protocol, or a number is out of range.
        """
        sampler = pruner.sampler
        if sampler is None:
            strata = "all" if pruner.weights == "shapley" else None
            sampler = StratifiedSampler(strata, leave_one_out=True, neighbours=True)
        surrogate = HammingProcess() if pruner.surrogate is None else pruner.surrogate
        selector = SurrogateSearch() if pruner.selector is None else pruner.selector
        check_parts(sampler, surrogate, selector)
        try_surrogate(surrogate)
        check_weights(pruner.weights, pruner.n_marginals)
        check_confidence(pruner.confidence)
        return cls(
            # A sampler learns in rounds; the user's own stays as it is.
            sampler=clone(sampler) if hasattr(sampler, "get_params") else sampler,
            surrogate=surrogate,
            selector=selector,
            weights=pruner.weights,
            n_masks=pruner.n_masks,
            max_remove=pruner.max_remove,
            n_remove=pruner.n_remove,
            protect=pruner.protect,
            keep_veto=pruner.keep_veto,
            confidence=float(pruner.confidence),
            unbiased=pruner.unbiased,
            n_marginals=pruner.n_marginals,
        )


def calibration_text(
    pruner: LayerPruner, calib_data: Any, tokenizer: Any, selector: Selector
) -> tuple[TextParts, UtilityLike | None]:
    """The calibration sequences in parts, and the utility: a task's own, unless another is given.

    Only a search races sets on parts of the text. Sequences that belong together, and plain callables, have all of it
    in one part.
    """
    utility = pruner.utility
    if isinstance(calib_data, Task):
        utility = calib_data.utility if utility is None else utility
        calib_data = calib_data.calibration
    calibration: Calibration = as_calibration(calib_data, tokenizer)
    divisible = (utility is None or isinstance(utility, Utility)) and not tied_to_sequences(utility)
    searches = isinstance(selector, SearchingSelector) and divisible
    held_back = float(selector.held_back) if searches and isinstance(selector, HoldsBack) else 0.0
    return split_text(calibration, races=searches and pruner.confidence < 1, held_back=held_back), utility

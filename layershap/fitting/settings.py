"""What `fit` is asked for, resolved and checked once, before anything is paid for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sklearn.base import clone

from layershap.calibration import Calibration
from layershap.compensation import Compensation
from layershap.compensation.compensating import check_compensation
from layershap.fitting.definitions import StratifiedValues, check_values
from layershap.fitting.masks import check_confidence, check_parts, try_surrogate
from layershap.fitting.text import TextParts, split_text
from layershap.protocols import HoldsBack, Parametrised, Sampler, SearchingSelector, Selector, Surrogate, Utility
from layershap.samplers import StratifiedSampler
from layershap.selection import SurrogateSearch
from layershap.surrogates import HammingProcess
from layershap.tasks import Task
from layershap.tasks.data import UtilityLike, sequences_and_utility
from layershap.utilities.mixture import tied_to_sequences

if TYPE_CHECKING:
    from layershap.pruner import LayerPruner


@dataclass(frozen=True)
class FitSettings:
    """What `fit` was asked for, its parts resolved.

    Attributes
    ----------
    sampler, surrogate, selector, values
        The parts; the sampler is a copy that may learn.
    n_masks, max_remove, n_remove, protect, confidence, compensation
        As `LayerPruner` describes them.
    """

    sampler: Sampler
    surrogate: Surrogate
    selector: Selector
    values: StratifiedValues
    n_masks: int | None
    max_remove: int | None
    n_remove: int | float | None
    protect: Sequence[int]
    confidence: float
    compensation: Compensation | None

    @classmethod
    def of(cls, pruner: LayerPruner) -> FitSettings:
        """The pruner's parameters with defaults in place of None.

        Raises
        ------
        TypeError, ValueError
            A part lacks a method of its protocol, or a number is out of range.
        """
        values = check_values(StratifiedValues() if pruner.values is None else pruner.values)
        sampler = pruner.sampler
        if sampler is None:
            strata = "all" if values.weights == "shapley" else None
            sampler = StratifiedSampler(strata, leave_one_out=True, neighbours=True)
        surrogate = HammingProcess() if pruner.surrogate is None else pruner.surrogate
        selector = SurrogateSearch() if pruner.selector is None else pruner.selector
        check_parts(sampler, surrogate, selector)
        check_compensation(pruner.compensation)
        try_surrogate(surrogate)
        check_confidence(pruner.confidence)
        return cls(
            # A sampler learns in rounds; the user's own stays as it is.
            sampler=clone(sampler) if isinstance(sampler, Parametrised) else sampler,
            surrogate=surrogate,
            selector=selector,
            values=values,
            n_masks=pruner.n_masks,
            max_remove=pruner.max_remove,
            n_remove=pruner.n_remove,
            protect=pruner.protect,
            confidence=float(pruner.confidence),
            compensation=pruner.compensation,
        )

    @staticmethod
    def text_to_keep(calib_data: Any, text: TextParts) -> Calibration | None:
        """What a compensation can be measured on later: nothing of a task, whose sequences hold wrong answers too."""
        return None if isinstance(calib_data, Task) else text.given

    def text(self, calib_data: Any, tokenizer: Any, utility: UtilityLike | None) -> tuple[TextParts, UtilityLike]:
        """The calibration sequences in parts, and the utility: a task's own, unless another is given.

        Only a search races sets on parts of the text. Sequences that belong together, and plain callables, have all of
        it in one part.
        """
        calibration, chosen = sequences_and_utility(calib_data, tokenizer, utility)
        if self.compensation is not None and isinstance(calib_data, Task):
            raise ValueError(
                "a compensation is measured on text, and a task's sequences hold wrong answers too: fit without one, "
                "then remove_layers(model, pruner.removed_layers(n), compensation=..., calibration=text)"
            )
        divisible = isinstance(chosen, Utility) and not tied_to_sequences(chosen)
        searches = isinstance(self.selector, SearchingSelector) and divisible
        held_back = float(self.selector.held_back) if searches and isinstance(self.selector, HoldsBack) else 0.0
        return split_text(calibration, races=searches and self.confidence < 1, held_back=held_back), chosen

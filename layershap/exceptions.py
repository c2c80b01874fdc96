"""Errors and warnings that a caller may want to catch by type."""

from __future__ import annotations

from typing import Any


class LayerShapError(Exception):
    """Base of the errors raised by this library beyond `ValueError`, `TypeError` and scikit-learn's own."""


class UnsupportedModelError(LayerShapError, ValueError):
    """The model is not one whose decoder layers can be played with: encoder-only, not causal, no layer list found."""


class LayerNotRemovableError(LayerShapError, ValueError):
    """A layer can't be removed alone; the message names the rule that says so."""


class SurgeryCheckError(LayerShapError, RuntimeError):
    """The pruned model disagrees with the masked model: the surgery is wrong for this architecture."""


class LedgerError(LayerShapError, ValueError):
    """A ledger can't be used: opened, written to, or trusted with the utility given."""


class LedgerMismatchError(LedgerError):
    """The ledger was written for another model, calibration set, statistic or version."""


class LedgerFormatError(LedgerError):
    """The file is no ledger, or a line of it is damaged; the message names file and line."""


class LedgerInUseError(LedgerError):
    """Another process, or another game of this one, holds the ledger; the message names it."""


class RanksError(LayerShapError, RuntimeError):
    """Processes that evaluate together don't have the same game, or one of them failed or ended.

    Attributes
    ----------
    in_step : bool
        Another rank failed with an error of the model's, which all ranks know of: they may go on together with
        something else.
    """

    in_step = False


class ModelInUseError(LayerShapError, RuntimeError):
    """Another thread is working on the model, whose layers are patched meanwhile."""


class MissingExtraError(LayerShapError, ImportError):
    """An optional dependency is not installed; the message holds the pip command."""


class ReportFormatError(LayerShapError, ValueError):
    """The file is no report, or one written by a newer version of this library."""


class UnreachableTargetError(LayerShapError, ValueError):
    """No removal that a fit knows meets the target.

    Parameters
    ----------
    message : str
        What was asked for, and what comes nearest.
    nearest : layershap.targets.TargetChoice, optional
        The removal that comes nearest: ``transform(model, n_remove=error.nearest.n_remove)`` takes it.
    """

    def __init__(self, message: str, nearest: Any = None) -> None:
        super().__init__(message)
        self.nearest = nearest


class SurrogateQualityWarning(UserWarning):
    """The surrogate predicts held-out masks poorly, so values read from it can't be trusted."""


class ValueQualityWarning(UserWarning):
    """The layers' values are too unsure to be told apart, or contradict what was measured directly."""


class CalibrationWarning(UserWarning):
    """The calibration text is too little for a choice that holds on other text."""


class TiedSelectionWarning(UserWarning):
    """The layers removed are one choice of several that the calibration data can't tell apart."""


class NonFiniteScoreWarning(UserWarning):
    """Some masked models score NaN or infinity; they are kept in the record and left out of the surrogate's fit."""


class PlainForwardWarning(UserWarning):
    """Masked models are run one at a time, which takes several times as long, as their layers can't be replayed."""


class ThreadsWarning(UserWarning):
    """torch's threads wait for each other on busy cores, which makes each small operation take milliseconds."""


class UncheckedInputWarning(UserWarning):
    """The self-check of a removal read text only, and the model takes images or sound too."""


class GenerationCacheWarning(UserWarning):
    """The pruned model can generate only without a key-value cache."""


class CheckpointWarning(UserWarning):
    """The pruned model needs more than plain ``save_pretrained`` and ``from_pretrained``."""


class GenerationWarning(UserWarning):
    """The pruned model's answers have collapsed; the message says whether its perplexity tells of it, too."""


class PromptWarning(UserWarning):
    """A chat model answers nothing to plain texts: it is to be asked by chats."""

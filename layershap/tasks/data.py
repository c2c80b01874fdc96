"""The one door for calibration data: sequences with a utility, whatever they are given as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from layershap.calibration import Calibration, as_calibration
from layershap.protocols import Utility
from layershap.tasks.task import Task
from layershap.utilities.language_modelling import PerplexityRatio

UtilityLike: TypeAlias = Utility | Callable[[nn.Module], float]

_ZEROS_ST = torch.zeros(1, 2, dtype=torch.int64)
NO_TEXT = Calibration(_ZEROS_ST, _ZEROS_ST, {"source": "the utility's own data"})
"""Stands for the calibration sequences where a utility has its own data, and none were given."""


def sequences_and_utility(
    calib_data: Any, tokenizer: Any = None, utility: UtilityLike | None = None
) -> tuple[Calibration, UtilityLike]:
    """Token sequences, and what masked models are worth on them.

    Parameters
    ----------
    calib_data : Calibration, Tensor [S, T], texts, datasets.Dataset, DataLoader, iterable of batches or Task
        See `layershap.calibration.as_calibration`. A `Task` brings its own sequences and utility; a utility that is a
        callable may bring its own data, and none are needed.
    tokenizer : PreTrainedTokenizerBase, optional
        The model's tokenizer, which texts need.
    utility : Utility or callable, optional
        Score of a masked model. By default the task's, or `PerplexityRatio`.

    Raises
    ------
    TypeError
        A utility that is neither, or data of no known kind.
    """
    if isinstance(calib_data, Task):
        utility = calib_data.utility if utility is None else utility
        calib_data = calib_data.calibration
    chosen = PerplexityRatio() if utility is None else utility
    if isinstance(chosen, type):
        raise TypeError(f"utility must be an object, got the class {chosen.__name__}; write {chosen.__name__}()")
    if not isinstance(chosen, Utility) and not callable(chosen):
        raise TypeError(
            "utility must have `statistics` and `score` (the Utility protocol) or be a callable f(model) -> float, "
            f"got {type(chosen).__name__}"
        )
    if calib_data is None and not isinstance(chosen, Utility):
        return NO_TEXT, chosen
    return as_calibration(calib_data, tokenizer), chosen


def refuse_task(argument: str, value: Any) -> None:
    """Raise a TypeError if `value` is a `Task` where methods with utilities of their own read the sequences."""
    if isinstance(value, Task):
        raise TypeError(
            f"{argument} must be token sequences or texts, got a Task, whose utility not every method knows; give "
            "task.calibration, and the utility as LayerPruner(utility=task.utility)"
        )

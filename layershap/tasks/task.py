"""`Task`: calibration sequences and the utilities made for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from layershap.calibration import Calibration
from layershap.protocols import Utility


@dataclass(frozen=True, eq=False)
class Task:
    """Calibration sequences with the utility that scores them: what ``fit(model, task)`` takes.

    ``evaluate(model, tasks=[task])`` reports the task's metrics.

    Attributes
    ----------
    name : str
        Name of the task in tables.
    calibration : Calibration
        Token sequences of the task.
    utility : Utility
        Utility by which `LayerPruner.fit` and `LayerGame` score masked models unless given another.
    metrics : dict of str to Utility
        Scores that `evaluate` reports, by name.

    See Also
    --------
    layershap.tasks.multiple_choice, layershap.tasks.last_word, layershap.tasks.text, layershap.tasks.mixture
    """

    name: str
    calibration: Calibration
    utility: Utility
    metrics: Mapping[str, Utility]

"""`Task`: calibration sequences and the utilities made for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from layershap.calibration import Calibration
from layershap.protocols import Utility


@dataclass(frozen=True, eq=False)
class Task:
    """What ``fit(model, task)`` and ``evaluate(model, tasks=[task])`` take.

    Attributes
    ----------
    name : str
        For tables.
    calibration : Calibration
        The task's token sequences.
    utility : Utility
        What `LayerPruner.fit` and `LayerGame` score masked models by, unless told otherwise.
    metrics : dict of str to Utility
        What `evaluate` reports.
    """

    name: str
    calibration: Calibration
    utility: Utility
    metrics: Mapping[str, Utility]

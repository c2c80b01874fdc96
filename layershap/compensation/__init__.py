"""Making up for removed layers by a change of the kept layers' weights, in closed form and without training."""

from layershap.compensation.compensating import compensation_of, compensation_record
from layershap.compensation.gaps import Gap
from layershap.compensation.linear_refit import LinearRefit
from layershap.compensation.memory import RefitMemory, refit_memory
from layershap.compensation.protocol import (
    Compensation,
    CompensationRecord,
    RefusesEarly,
    Removal,
    ScalesSkippedLayers,
    WeightChange,
)
from layershap.compensation.replace_me import ReplaceMe
from layershap.compensation.rescale import Rescale
from layershap.compensation.scales import layer_scales

__all__ = [
    "Compensation",
    "CompensationRecord",
    "Gap",
    "LinearRefit",
    "RefitMemory",
    "RefusesEarly",
    "Removal",
    "ReplaceMe",
    "Rescale",
    "ScalesSkippedLayers",
    "WeightChange",
    "compensation_of",
    "compensation_record",
    "layer_scales",
    "refit_memory",
]

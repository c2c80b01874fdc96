"""Targets instead of a number of layers: a size, a measured speed, or a bound on the perplexity.

``limits`` are what a user asks for and ``parse`` how a command line spells it; ``curve`` is what every number of layers
comes to, ``sizes`` and ``timing`` measure that on a model; ``choice`` puts them together.
"""

from layershap.targets.choice import TargetChoice
from layershap.targets.curve import RemovalCurve, RemovalPoint
from layershap.targets.limits import (
    MaxBytes,
    MaxLatency,
    MaxParameters,
    MaxPerplexityIncrease,
    MinThroughput,
    Target,
)
from layershap.targets.parse import parse_target
from layershap.targets.timing import RemovalSpeed

__all__ = [
    "MaxBytes",
    "MaxLatency",
    "MaxParameters",
    "MaxPerplexityIncrease",
    "MinThroughput",
    "RemovalCurve",
    "RemovalPoint",
    "RemovalSpeed",
    "Target",
    "TargetChoice",
    "parse_target",
]

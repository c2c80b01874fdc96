"""`compare`: pruning methods on one model, what they choose set side by side."""

from layershap.comparison.compare import TaskLike, compare
from layershap.comparison.difference import PairedDifference
from layershap.comparison.result import Choice, Cost, MethodComparison
from layershap.protocols import DepthPruningMethod

__all__ = ["Choice", "Cost", "DepthPruningMethod", "MethodComparison", "PairedDifference", "TaskLike", "compare"]

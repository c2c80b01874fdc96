"""`compare`: pruning methods on one model, what they choose set side by side."""

from layershap.comparison.compare import DepthPruningMethod, TaskLike, compare
from layershap.comparison.result import Choice, Cost, MethodComparison

__all__ = ["Choice", "Cost", "DepthPruningMethod", "MethodComparison", "TaskLike", "compare"]

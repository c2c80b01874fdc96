"""Selectors: which layers to remove, from what ``fit`` learned; some evaluate sets of their own in ``fit``."""

from layershap.selection.exhaustive import Exhaustive
from layershap.selection.greedy import Greedy
from layershap.selection.ranking import ShapleyRanking
from layershap.selection.search import SurrogateSearch

__all__ = ["Exhaustive", "Greedy", "ShapleyRanking", "SurrogateSearch"]

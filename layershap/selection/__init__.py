"""Selectors: which layers to remove, from what ``fit`` learned."""

from layershap.selection.ranking import ShapleyRanking

__all__ = ["ShapleyRanking"]

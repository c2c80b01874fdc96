"""Selectors: which layers to remove, from what ``fit`` learned."""

from __future__ import annotations

from sklearn.base import BaseEstimator

from layershap.protocols import IntArray, SelectionEvidence
from layershap.shapley import removal_order


class ShapleyRanking(BaseEstimator):
    """The paper's rule: drop layers in ascending order of value. The sets for growing `n_remove` are nested."""

    def select(self, evidence: SelectionEvidence, n_remove: int) -> IntArray:
        """Sorted indices of the `n_remove` removable layers of least value."""
        order = removal_order(evidence.contributions, evidence.removable)
        chosen = order[:n_remove]
        chosen.sort()
        return chosen

"""Ranking by value."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator

from layershap.exceptions import TiedSelectionWarning
from layershap.protocols import IntArray, SelectionEvidence
from layershap.selection.validity import with_one_kept
from layershap.shapley import removal_order
from layershap.warning import warn_user


class ShapleyRanking(BaseEstimator):
    """The paper's rule: remove layers in ascending order of value. The sets for growing `n_remove` are nested.

    See Also
    --------
    SurrogateSearch : Chooses among sets evaluated on the real model.
    """

    def select(self, evidence: SelectionEvidence, n_remove: int) -> IntArray:
        """Choose the removable layers of least value.

        Parameters
        ----------
        evidence : SelectionEvidence
            Values of the layers.
        n_remove : int
            Number of layers to remove.

        Returns
        -------
        ndarray [n_remove] of int
            Sorted indices of the layers.

        Warns
        -----
        TiedSelectionWarning
            The cut runs between layers of the same value.
        """
        order = removal_order(evidence.contributions, evidence.removable)
        values = evidence.contributions[order]
        if n_remove < evidence.removable.sum() and values[n_remove - 1] == values[n_remove]:
            tied = np.flatnonzero(evidence.contributions == values[n_remove])
            warn_user(
                f"n_remove={n_remove} cuts between layers of the same value, {tied.tolist()}; those of lower index go",
                TiedSelectionWarning,
            )
        return with_one_kept(order[:n_remove], evidence.keep_one_of, evidence.contributions, evidence.removable)

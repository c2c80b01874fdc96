"""From values to an order of removal."""

from __future__ import annotations

import numpy as np

from layershap.protocols import FloatArray, IntArray, MaskArray


def removal_order(values: FloatArray, removable: MaskArray | None = None) -> IntArray:
    """Order the layers by ascending value, the first to be removed first.

    Parameters
    ----------
    values : ndarray [L]
        Values of the layers.
    removable : ndarray [L] of bool, optional
        False for protected layers, which come last. By default all layers are removable.

    Returns
    -------
    ndarray [L] of int
        Indices of the layers; ties go to the lower index.
    """
    protected = np.zeros(len(values), dtype=bool) if removable is None else ~removable
    return np.lexsort((np.arange(len(values)), values, protected)).astype(np.int64)

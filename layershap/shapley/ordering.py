"""From values to an order of removal."""

from __future__ import annotations

import numpy as np

from layershap.protocols import FloatArray, IntArray, MaskArray


def removal_order(values: FloatArray, removable: MaskArray | None = None) -> IntArray:
    """Layers in ascending order of value, the first to go first; ties by index; protected layers last."""
    protected = np.zeros(len(values), dtype=bool) if removable is None else ~removable
    return np.lexsort((np.arange(len(values)), values, protected)).astype(np.int64)

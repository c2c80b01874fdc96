"""The arrays of the project by what they hold; their shapes are given where they are used."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MaskArray = NDArray[np.bool_]
"""[M, L] (or [L]) booleans, True = layer kept."""

FloatArray = NDArray[np.float64]
"""float64 array; its shape is given where it is used."""

IntArray = NDArray[np.int64]
"""int64 array; its shape is given where it is used."""

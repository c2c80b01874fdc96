"""What the checks share."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from sklearn.base import clone

from layershap.protocols import FloatArray, MaskArray


def require(condition: object, contract: str) -> None:
    """Raise an `AssertionError` that names the broken contract, also under ``python -O``."""
    if not condition:
        raise AssertionError(contract)


def same(first: Any, second: Any) -> bool:
    """Equal arrays, NaN equal to NaN."""
    return bool(np.array_equal(np.asarray(first), np.asarray(second), equal_nan=True))


def check_copies(part: Any) -> None:
    """`clone` of an estimator that holds the part, and pickling of a fitted one, must work."""
    name = type(part).__name__
    try:
        clone(part, safe=False)
        pickle.loads(pickle.dumps(part))
    except Exception as error:
        raise AssertionError(
            f"{name} must survive sklearn.clone and pickling, as LayerPruner does with its parts "
            f"({type(error).__name__}: {error}); a lambda or a local class is the usual reason"
        ) from error


def additive_game(n_layers: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, MaskArray]:
    """Weights [L], scores [M] and masks [M, L] of a game in which each layer adds its weight, and a little noise."""
    weights = rng.uniform(0.05, 0.2, n_layers)
    masks = rng.random((20 * n_layers, n_layers)) < 0.7
    return weights, masks @ weights + 0.001 * rng.normal(size=len(masks)), masks

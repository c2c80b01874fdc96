"""What the checks share."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import SkipTest

import numpy as np
from sklearn.base import clone

from layershap.protocols import FloatArray, MaskArray


class Contract:
    """Base of the contracts: a test class for pytest whose tests all begin with a new instance of the part."""

    def make(self) -> Any:
        """A new instance of the part to check; to be overridden."""
        raise NotImplementedError(f"{type(self).__name__} must define make(self), which returns the part to check")


def check_contract(contract: Contract) -> None:
    """Run the tests of a contract in the order in which they are written, without pytest."""
    names = [name for kind in reversed(type(contract).__mro__) for name in vars(kind) if name.startswith("test_")]
    for name in names:
        try:
            getattr(contract, name)()
        except SkipTest:
            continue


def only_if(condition: bool, reason: str) -> None:
    """Skip a test of what the part doesn't claim to be."""
    if not condition:
        raise SkipTest(reason)


def require(condition: object, contract: str) -> None:
    """Raise an `AssertionError` that names the broken contract, also under ``python -O``."""
    if not condition:
        raise AssertionError(contract)


@contextmanager
def must_not_raise(contract: str) -> Iterator[None]:
    """Whatever the part raises becomes an `AssertionError` that names the broken contract and the error."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{contract}; it raised {type(error).__name__}: {error}") from error


def same(first: Any, second: Any) -> bool:
    """Equal arrays, NaN equal to NaN."""
    return bool(np.array_equal(np.asarray(first), np.asarray(second), equal_nan=True))


def check_copies(part: Any) -> None:
    """`clone` of an estimator that holds the part, and pickling of a fitted one, must work."""
    with must_not_raise(
        f"{type(part).__name__} must survive sklearn.clone and pickling, as LayerPruner does with its parts (a lambda "
        "or a local class is the usual reason why not)"
    ):
        clone(part, safe=False)
        pickle.loads(pickle.dumps(part))


def additive_game(n_layers: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, MaskArray]:
    """Weights [L], scores [M] and masks [M, L] of a game in which each layer adds its weight, and a little noise."""
    weights = rng.uniform(0.05, 0.2, n_layers)
    masks = rng.random((20 * n_layers, n_layers)) < 0.7
    return weights, masks @ weights + 0.001 * rng.normal(size=len(masks)), masks

"""Unfitted copies of surrogates."""

from __future__ import annotations

import copy
from typing import Any

from sklearn.base import clone

from layershap.protocols import Parametrised, Seeded, Surrogate


def fresh_surrogate(surrogate: Surrogate, seed: int) -> Any:
    """An unfitted copy, seeded if it can be and is not yet."""
    if not isinstance(surrogate, Parametrised):
        return copy.deepcopy(surrogate)
    fresh: Any = clone(surrogate)
    if isinstance(fresh, Seeded) and "random_state" in fresh.get_params() and fresh.random_state is None:
        fresh.set_params(random_state=seed)
    return fresh

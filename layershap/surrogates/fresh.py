"""Unfitted copies of surrogates."""

from __future__ import annotations

import copy
from typing import Any

from sklearn.base import clone

from layershap.protocols import Surrogate


def fresh_surrogate(surrogate: Surrogate, seed: int) -> Any:
    """An unfitted copy, seeded if it can be and is not yet."""
    if not hasattr(surrogate, "get_params"):
        return copy.deepcopy(surrogate)
    fresh = clone(surrogate)
    if "random_state" in fresh.get_params() and fresh.get_params()["random_state"] is None:
        fresh.set_params(random_state=seed)
    return fresh

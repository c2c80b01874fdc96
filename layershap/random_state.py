"""From scikit-learn's `random_state` to a generator."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_random_state


def random_generator(random_state: Any) -> np.random.Generator:
    """A generator from scikit-learn's kinds of `random_state`; a Generator is used as it is."""
    if isinstance(random_state, np.random.Generator):
        return random_state
    return np.random.default_rng(int(check_random_state(random_state).randint(2**31)))

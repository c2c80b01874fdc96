"""From scikit-learn's `random_state` to a generator."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from layershap.ranks.together import Ranks


def random_generator(random_state: Any) -> np.random.Generator:
    """A generator from scikit-learn's kinds of `random_state`; a Generator is used as it is.

    With None, ranks that work together draw one seed.
    """
    if isinstance(random_state, np.random.Generator):
        return random_state
    seed = int(check_random_state(random_state).randint(2**31))
    if random_state is None:
        seed = Ranks.of_process().together(lambda: seed)[0]
    return np.random.default_rng(seed)

"""What a utility returned, checked: a user's own may return anything.

Shapes: M masks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from layershap.protocols import FloatArray


def checked_scores(found: Any, n_masks: int, utility: object) -> FloatArray:
    """What ``utility.score`` returned for M masks, as floats [M].

    Raises
    ------
    ValueError
        Not one real number for each mask.
    """
    scores = np.asarray(found)
    if scores.shape != (n_masks,) or not np.issubdtype(scores.dtype, np.number) or np.iscomplexobj(scores):
        raise ValueError(
            f"the score of a utility must be one real number for each mask, [{n_masks}]; "
            f"{type(utility).__name__}.score gave {scores.dtype} {list(scores.shape)}"
        )
    return scores.astype(np.float64)


def checked_score(found: Any, utility: object) -> float:
    """What a utility that is a function returned for one model, as a float.

    Raises
    ------
    TypeError
        Not one real number: None (no ``return``), text, or an array of several.
    """
    name = getattr(utility, "__qualname__", type(utility).__qualname__)
    if isinstance(found, Tensor):
        found = found.detach().cpu().double().numpy() if found.is_floating_point() else found.cpu().numpy()
    score = np.asarray(found)
    real = score.dtype == np.bool_ or (np.issubdtype(score.dtype, np.number) and not np.iscomplexobj(score))
    if score.size != 1 or not real:
        shown = f"{score.dtype} {list(score.shape)}" if isinstance(found, np.ndarray) else repr(found)
        raise TypeError(
            f"a utility that is a function must return one real number for each model, {name} returned {shown:.80}"
        )
    return float(score.reshape(-1)[0])

"""From a sampler and a game to evaluated masks, and the checks on both ends.

Shapes: M masks, L layers.
"""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from layershap.exceptions import NonFiniteScoreWarning
from layershap.protocols import AdaptiveSampler, FloatArray, Game, MaskArray, Sampler

_ROUNDS = 4
"""Rounds in which an adaptive sampler is asked."""


def evaluate_masks(
    game: Game, sampler: Sampler, n_masks: int, removable: MaskArray, rng: np.random.Generator
) -> tuple[MaskArray, FloatArray]:
    """Draw masks over the removable layers and score them: masks [M, L], scores [M].

    An adaptive sampler is asked in rounds and told all scores after each.
    """
    n_players = int(removable.sum())
    rounds = _ROUNDS if isinstance(sampler, AdaptiveSampler) else 1
    masks = np.empty((0, len(removable)), dtype=bool)
    scores = np.empty(0)
    for index in range(rounds):
        drawn = np.asarray(sampler.sample(n_players, (n_masks * (index + 1)) // rounds - len(masks), rng))
        if drawn.ndim != 2 or drawn.shape[1] != n_players or drawn.dtype != np.bool_:
            raise ValueError(f"a sampler must return booleans [M, {n_players}], got {drawn.dtype} {drawn.shape}")
        full = np.ones((len(drawn), len(removable)), dtype=bool)
        full[:, removable] = drawn
        scores = np.concatenate([scores, game(full)])
        masks = np.concatenate([masks, full])
        if isinstance(sampler, AdaptiveSampler):
            sampler.update(masks[:, removable], scores)
    return masks, scores


def finite_scores(masks: MaskArray, scores: FloatArray) -> MaskArray:
    """Which scores [M] are finite; the others are named in a warning.

    Raises
    ------
    ValueError
        Fewer than two are.
    """
    finite = np.isfinite(scores)
    if not finite.all():
        wrong = [np.flatnonzero(~mask).tolist() for mask in masks[~finite][:5]]
        warnings.warn(
            f"{np.count_nonzero(~finite)} of {len(scores)} masked models have no finite score; they stay in masks_ "
            f"and scores_ and are left out of the surrogate's fit. Removed layers of the first: {wrong}",
            NonFiniteScoreWarning,
            stacklevel=3,
        )
    if finite.sum() < 2:
        raise ValueError("no two masked models have a finite score: is the model itself sound on this text?")
    return finite


def random_generator(random_state: Any) -> np.random.Generator:
    """A generator from scikit-learn's kinds of `random_state`; a Generator is used as it is."""
    if isinstance(random_state, np.random.Generator):
        return random_state
    return np.random.default_rng(int(check_random_state(random_state).randint(2**31)))


def check_n_masks(n_masks: Any, n_players: int) -> None:
    """Raise unless there are enough masks to tell the removable layers apart."""
    if isinstance(n_masks, bool) or not isinstance(n_masks, Integral):
        raise TypeError(f"n_masks must be an int, got {n_masks!r}")
    if n_players < 2:
        raise ValueError(f"a game needs at least 2 removable layers, this model leaves {n_players}; see protect")
    if int(n_masks) <= n_players:
        raise ValueError(
            f"n_masks must exceed the number of removable layers, {n_players}, or the surrogate can't tell them "
            f"apart; got {n_masks}. {20 * n_players} is a good start."
        )


def check_n_remove(n_remove: Any, removable: MaskArray) -> int:
    """The number of layers to remove as an int, at least 1, all of them removable and at least one layer left."""
    if n_remove is None:
        raise ValueError("how many layers? Give n_remove to transform, or to LayerPruner(n_remove=...)")
    if isinstance(n_remove, bool | np.bool_) or not isinstance(n_remove, Integral):
        raise TypeError(
            f"n_remove must be an int, got {n_remove!r} of type {type(n_remove).__name__}. "
            "To remove layers of your own choice: layershap.remove_layers(model, [...])"
        )
    most = min(int(removable.sum()), len(removable) - 1)
    count = int(n_remove)
    if not 1 <= count <= most:
        raise ValueError(
            f"n_remove must lie in [1, {most}] for a model of {len(removable)} layers, {int(removable.sum())} of them "
            f"removable; got {count}"
        )
    return count

"""From a sampler and a game to evaluated masks, and the checks on both ends.

Shapes: M masks, L layers, P players (removable layers).
"""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from layershap.exceptions import NonFiniteScoreWarning
from layershap.fitting.record import RecordedGame
from layershap.protocols import AdaptiveSampler, FloatArray, MaskArray, Sampler, SearchingSelector, Selector

_SAMPLED = 80
"""Masks that the sampler draws for a search, where it leaves so many."""

_ROUNDS = 4
"""Rounds in which an adaptive sampler is asked."""


def evaluate_masks(
    game: RecordedGame, sampler: Sampler, n_masks: int, rng: np.random.Generator, *, n_reserved: int = 0
) -> tuple[MaskArray, FloatArray]:
    """Draw masks over the players and score them: masks [M, P], scores [M], repetitions included.

    An adaptive sampler is asked in rounds and told all scores after each. Draws that would leave a search fewer than
    `n_reserved` masks, leave-one-outs among them, are dropped; so are those that a budget in layer runs can't pay for.

    Raises
    ------
    ValueError
        Not masks, none at all, or more than were asked for.
    """
    rounds = _ROUNDS if isinstance(sampler, AdaptiveSampler) else 1
    masks = np.empty((0, game.n_players), dtype=bool)
    scores = np.empty(0)
    n_drawn = 0
    for index in range(rounds):
        asked = (n_masks * (index + 1)) // rounds - len(masks)
        drawn = np.asarray(sampler.sample(game.n_players, asked, rng))
        if drawn.ndim != 2 or drawn.shape[1] != game.n_players or drawn.dtype != np.bool_:
            raise ValueError(f"a sampler must return booleans [M, {game.n_players}], got {drawn.dtype} {drawn.shape}")
        if len(drawn) > asked:
            raise ValueError(f"a sampler must return at most the masks asked for, {asked}; got {len(drawn)}")
        n_drawn += len(drawn)
        drawn = drawn[: game.affordable(drawn, n_reserved)]
        scores = np.concatenate([scores, game(drawn)])
        masks = np.concatenate([masks, drawn])
        if isinstance(sampler, AdaptiveSampler):
            sampler.update(masks, scores)
    if not n_drawn:
        raise ValueError(f"a sampler must return masks, {type(sampler).__name__} returned none of {n_masks}")
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


def check_parts(sampler: Any, surrogate: Any, selector: Any) -> None:
    """Raise unless each part has the methods of its protocol, before anything is paid for."""
    searching = ("search", "n_required", "n_useful") if hasattr(selector, "search") else ()
    for name, part, methods in (
        ("sampler", sampler, ("sample",)),
        ("surrogate", surrogate, ("fit", "predict")),
        ("selector", selector, ("select", *searching)),
    ):
        missing = [method for method in methods if not callable(getattr(part, method, None))]
        if isinstance(part, type):
            raise TypeError(f"{name} must be an object, got the class {part.__name__}; write {part.__name__}()")
        if missing and not (name == "surrogate" and part == "auto"):
            raise TypeError(
                f"a {name} must have {' and '.join(methods)} (layershap.protocols.{name.capitalize()}); "
                f"{part!r} has no {' and no '.join(missing)}"
            )


def check_max_remove(max_remove: Any, n_remove: Any, removable: MaskArray) -> int:
    """The most layers that `fit` searches for: two thirds of the removable ones, rounded up, unless told otherwise.

    Raises
    ------
    ValueError
        More than can be removed; or less than the constructor's `n_remove`, which `transform` would find too late.
    """
    n_players = int(removable.sum())
    if n_players < 2:
        raise ValueError(f"a game needs at least 2 removable layers, this model leaves {n_players}; see protect")
    limit = resolved_max_remove(max_remove, n_players, len(removable))
    if isinstance(n_remove, Integral) and limit < int(n_remove) <= most_removable(n_players, len(removable)):
        raise ValueError(
            f"n_remove={n_remove} exceeds max_remove={limit}, the most layers that fit searches for"
            f"{' (by default two thirds of the removable ones)' if max_remove is None else ''}; "
            f"give max_remove={n_remove}"
        )
    return limit


def most_removable(n_players: int, n_layers: int) -> int:
    """The most of P removable layers that can be removed from L: one layer stays."""
    return min(n_players, n_layers - 1)


def resolved_max_remove(max_remove: Any, n_players: int, n_layers: int) -> int:
    """The largest number of layers to look for: two thirds of the P removable ones of L, rounded up, unless told.

    Raises
    ------
    ValueError, TypeError
        Not an int from 1 to `most_removable`.
    """
    most = most_removable(n_players, n_layers)
    if max_remove is None:
        return min(-(-2 * n_players // 3), most)
    if isinstance(max_remove, bool) or not isinstance(max_remove, Integral):
        raise TypeError(f"max_remove must be an int, got {max_remove!r}")
    if not 1 <= int(max_remove) <= most:
        raise ValueError(
            f"max_remove must lie in [1, {most}] with {n_players} of {n_layers} layers removable, got {max_remove}"
        )
    return int(max_remove)


def default_masks(selector: Selector, n_players: int, max_remove: int) -> int:
    """Masks that `fit` may evaluate unless told: 256 without a search; with one, what it can use, and 80 to sample."""
    if isinstance(selector, SearchingSelector):
        return selector.n_useful(n_players, max_remove) + _SAMPLED
    return max(256, 4 * n_players)


def share_masks(n_masks: Any, selector: Selector, n_players: int, max_remove: int) -> tuple[int, int]:
    """How many masks there are in all, and how many of them the sampler draws; a searching selector has the rest.

    The sampler draws half of what the search can spare, up to 80, and what the search has no use for; at least as many
    as there are leave-one-outs, which serve both.

    Raises
    ------
    ValueError
        Too few to tell the layers apart, or for the search; the message says what each part needs.
    """
    if n_masks is not None and (isinstance(n_masks, bool) or not isinstance(n_masks, Integral)):
        raise TypeError(f"n_masks must be an int, got {n_masks!r}")
    total = default_masks(selector, n_players, max_remove) if n_masks is None else int(n_masks)
    if not isinstance(selector, SearchingSelector):
        if total <= n_players:
            raise ValueError(
                f"n_masks must exceed the number of removable layers, {n_players}, or the surrogate can't tell them "
                f"apart; got {n_masks}. {20 * n_players} is a good start."
            )
        return total, total
    required = selector.n_required(n_players, max_remove)
    if total < max(required, n_players + 1):
        raise ValueError(
            f"n_masks must exceed the number of removable layers, {n_players}, or the surrogate can't tell them apart; "
            f"and {type(selector).__name__} may need {required} masks for max_remove={max_remove}, the "
            f"{n_players} leave-one-outs included. The minimum is {max(required, n_players + 1)}, got {n_masks}. "
            "Raise it, lower max_remove, or choose selector=ShapleyRanking(), which evaluates nothing of its own."
        )
    spare = total - required
    wanted = max(n_players, min(spare // 2, _SAMPLED), total - selector.n_useful(n_players, max_remove))
    return total, min(wanted, spare + n_players)


def check_n_remove(n_remove: Any, removable: MaskArray, max_remove: int | None = None) -> int:
    """The number of layers to remove as an int, at least 1, all of them removable and at least one layer left."""
    if n_remove is None:
        raise ValueError("how many layers? Give n_remove to transform, or to LayerPruner(n_remove=...)")
    if isinstance(n_remove, bool | np.bool_) or not isinstance(n_remove, Integral):
        raise TypeError(
            f"n_remove must be an int, got {n_remove!r} of type {type(n_remove).__name__}. "
            "To remove layers of your own choice: layershap.remove_layers(model, [...])"
        )
    most = most_removable(int(removable.sum()), len(removable))
    count = int(n_remove)
    if not 1 <= count <= most:
        raise ValueError(
            f"n_remove must lie in [1, {most}] for a model of {len(removable)} layers, {int(removable.sum())} of them "
            f"removable; got {count}"
        )
    if max_remove is not None and count > max_remove:
        raise ValueError(
            f"this pruner searched for sets of 1 to {max_remove} layers, got n_remove={count}; fit again with "
            f"max_remove={count} (with the same ledger, what was evaluated is not evaluated again)"
        )
    return count

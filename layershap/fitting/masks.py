"""How many masks: the checks on what `fit` is asked for and on what its parts return.

Shapes: M masks, P players (removable layers).
"""

from __future__ import annotations

import copy
import warnings
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier

from layershap.exceptions import NonFiniteScoreWarning
from layershap.limits import check_int
from layershap.protocols import FloatArray, MaskArray, Parametrised, SearchingSelector, Selector
from layershap.surrogates.fresh import fresh_surrogate
from layershap.warning import warn_user

_DRAWN_PER_PLAYER = 9
"""Random masks for each player where n_masks leaves the choice: the values' errors by the masks are then a sixth of
their differences or less on 24 to 32 layers (docs/values.md)."""

ROUNDS = 4
"""Rounds in which an adaptive sampler is asked."""


def check_drawn(drawn: Any, n_players: int, asked: int) -> MaskArray:
    """A sampler's masks [M, P].

    Raises
    ------
    ValueError
        Not masks, or more than were asked for.
    """
    masks = np.asarray(drawn)
    if masks.ndim != 2 or masks.shape[1] != n_players or masks.dtype != np.bool_:
        raise ValueError(f"a sampler must return booleans [M, {n_players}], got {masks.dtype} {masks.shape}")
    if len(masks) > asked:
        raise ValueError(f"a sampler must return at most the masks asked for, {asked}; got {len(masks)}")
    return masks


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
        warn_user(
            f"{np.count_nonzero(~finite)} of {len(scores)} masked models have no finite score; they stay in masks_ "
            f"and scores_, and surrogate and values are without them. Removed layers of the first: {wrong}",
            NonFiniteScoreWarning,
        )
    if finite.sum() < 2:
        raise ValueError("no two masked models have a finite score: is the model itself sound on this text?")
    return finite


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
        if missing:
            raise TypeError(
                f"a {name} must have {' and '.join(methods)} (layershap.protocols.{name.capitalize()}); "
                f"{part!r} has no {' and no '.join(missing)}"
            )


def try_surrogate(surrogate: Any) -> None:
    """Fit a copy to made-up scores: a parameter that it can't work with is found before masks are paid for.

    Raises
    ------
    TypeError
        A classifier, or predictions that aren't one finite number for each mask.
    """
    if hasattr(surrogate, "__sklearn_tags__") and is_classifier(surrogate):
        raise TypeError(f"a surrogate must be a regressor, got the classifier {type(surrogate).__name__}")
    rng = np.random.default_rng(0)
    masks = rng.random((40, 6)) < 0.7
    trial = fresh_surrogate(surrogate, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trial.fit(masks, masks @ np.linspace(0.1, 0.3, 6))
        found = np.asarray(trial.predict(masks))
    if found.shape != (40,) or not np.issubdtype(found.dtype, np.floating) or not np.isfinite(found).all():
        raise TypeError(
            f"a surrogate must predict one finite float for each mask; {type(surrogate).__name__} fitted to 40 made-up "
            f"scores predicts {found.dtype} {list(found.shape)}, finite: {bool(np.isfinite(found).all())}"
        )


def try_sampler(sampler: Any, n_players: int, n_masks: int) -> None:
    """Draw from a copy: a parameter that it can't work with is found before masks are paid for.

    Raises
    ------
    ValueError, TypeError
        The sampler's own errors; or it returns no masks, or more than asked for.
    """
    trial = clone(sampler) if isinstance(sampler, Parametrised) else copy.deepcopy(sampler)
    check_drawn(trial.sample(n_players, n_masks, np.random.default_rng(0)), n_players, n_masks)


def check_confidence(confidence: Any) -> None:
    """Raise unless a confidence lies between a coin's and certainty."""
    if isinstance(confidence, bool) or not isinstance(confidence, Real) or not 0.5 < float(confidence) <= 1:
        raise ValueError(f"confidence must lie in (0.5, 1]; 1 scores all sets on all of the text. Got {confidence!r}")


def default_masks(selector: Selector, n_players: int, max_remove: int) -> int:
    """Masks that `fit` may evaluate unless told: 256 without a search, or 10 for each player; with one, what it can use
    and 9 for each player to estimate values from.
    """
    drawn = _DRAWN_PER_PLAYER * n_players
    if isinstance(selector, SearchingSelector):
        return selector.n_useful(n_players, max_remove) + drawn
    return max(256, n_players + drawn)


def least_masks(selector: Selector, n_players: int, max_remove: int) -> int:
    """The fewest masks that `fit` takes: one more than players, and what a search for `max_remove` may need."""
    needed = selector.n_required(n_players, max_remove) if isinstance(selector, SearchingSelector) else 0
    return max(needed, n_players + 1)


def share_masks(
    n_masks: Any, selector: Selector, n_players: int, max_remove: int, *, keep_veto: bool = True
) -> tuple[int, int]:
    """Number of masks in all, and number of masks drawn at random for the values; a searching selector has the rest.

    With a search, the masks buy in this order:

    1. The masks that the search needs, the leave-one-outs included.
    2. Half for the values and half for the search, until the values have 9 masks for each player.
    3. All that the search can use beyond its half.
    4. Further masks for the values.

    The leave-one-outs serve both, and are not among the masks drawn unless `keep_veto` is off.

    Raises
    ------
    ValueError
        Too few to tell the layers apart, or for the search; the message says what each part needs.
    """
    total = default_masks(selector, n_players, max_remove) if n_masks is None else check_int("n_masks", n_masks)
    known = n_players if keep_veto or isinstance(selector, SearchingSelector) else 0  # the leave-one-outs
    if not isinstance(selector, SearchingSelector):
        if total <= n_players:
            raise ValueError(
                f"n_masks must exceed the number of removable layers, {n_players}, or the surrogate can't tell them "
                f"apart; got {n_masks}. {20 * n_players} is a good start."
            )
        return total, total - known
    required = least_masks(selector, n_players, max_remove)
    if total < required:
        raise ValueError(
            f"n_masks must exceed the number of removable layers, {n_players}, or the surrogate can't tell them apart; "
            f"and {type(selector).__name__} may need {selector.n_required(n_players, max_remove)} masks for "
            f"max_remove={max_remove}, the {n_players} leave-one-outs included. The minimum is {required}, got "
            f"{n_masks}. Raise it, lower max_remove, or choose selector=ShapleyRanking(), which evaluates nothing of "
            "its own."
        )
    spare = total - required
    beyond_use = total - selector.n_useful(n_players, max_remove)
    return total, min(spare, max(min(spare // 2, _DRAWN_PER_PLAYER * n_players), beyond_use))

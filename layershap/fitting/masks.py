"""How many masks, how many layers: the checks on what `fit` is asked for and on what its parts return.

Shapes: M masks, L layers, P players (removable layers).
"""

from __future__ import annotations

import copy
import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.utils import check_random_state

from layershap.exceptions import NonFiniteScoreWarning
from layershap.protocols import FloatArray, MaskArray, Parametrised, SearchingSelector, Selector
from layershap.surrogates.fresh import fresh_surrogate

_DRAWN_PER_PLAYER = 9
"""Random masks for each player where n_masks leaves the choice: the values' errors are then a fifth of their
differences
on 24 to 32 layers (docs/values.md)."""

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


def try_surrogate(surrogate: Any) -> None:
    """Fit a copy to made-up scores: a parameter that it can't work with is found before masks are paid for.

    Raises
    ------
    TypeError
        A classifier, or predictions that aren't one finite number for each mask.
    """
    if isinstance(surrogate, str):
        return
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
    if n_remove is None:
        return limit
    wanted = check_n_remove(n_remove, removable)
    if limit < wanted:
        raise ValueError(
            f"n_remove={n_remove} exceeds max_remove={limit}, the most layers that fit searches for"
            f"{' (by default two thirds of the removable ones)' if max_remove is None else ''}; "
            f"give max_remove={wanted}"
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
    """Masks that `fit` may evaluate unless told: 256 without a search, or 10 for each player; with one, what it can use
    and 9 for each player to estimate values from.
    """
    drawn = _DRAWN_PER_PLAYER * n_players
    if isinstance(selector, SearchingSelector):
        return selector.n_useful(n_players, max_remove) + drawn
    return max(256, n_players + drawn)


def share_masks(
    n_masks: Any, selector: Selector, n_players: int, max_remove: int, *, keep_veto: bool = True
) -> tuple[int, int]:
    """How many masks there are in all, and how many are drawn at random; a searching selector has the rest.

    The leave-one-outs serve both, and are not among those drawn unless `keep_veto` is off. Values have half of what the
    search can spare, up to 9 masks for each player, and what the search has no use for.

    Raises
    ------
    ValueError
        Too few to tell the layers apart, or for the search; the message says what each part needs.
    """
    if n_masks is not None and (isinstance(n_masks, bool) or not isinstance(n_masks, Integral)):
        raise TypeError(f"n_masks must be an int, got {n_masks!r}")
    total = default_masks(selector, n_players, max_remove) if n_masks is None else int(n_masks)
    known = n_players if keep_veto or isinstance(selector, SearchingSelector) else 0  # the leave-one-outs
    if not isinstance(selector, SearchingSelector):
        if total <= n_players:
            raise ValueError(
                f"n_masks must exceed the number of removable layers, {n_players}, or the surrogate can't tell them "
                f"apart; got {n_masks}. {20 * n_players} is a good start."
            )
        return total, total - known
    required = max(selector.n_required(n_players, max_remove), n_players + 1)
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


def check_n_remove(n_remove: Any, removable: MaskArray, max_remove: int | None = None) -> int:
    """The number of layers to remove as an int, at least 1, all of them removable and at least one layer left.

    A fraction is one of all layers, rounded down to at least 1.
    """
    if n_remove is None:
        raise ValueError("how many layers? Give n_remove to transform, or to LayerPruner(n_remove=...)")
    whole = isinstance(n_remove, Integral) and not isinstance(n_remove, bool | np.bool_)
    if not whole and not (isinstance(n_remove, float | np.floating) and 0 < n_remove < 1):
        raise TypeError(
            f"n_remove must be an int, or a fraction of the layers in (0, 1), got {n_remove!r} of type "
            f"{type(n_remove).__name__}. To remove layers of your own choice: layershap.remove_layers(model, [...])"
        )
    most = most_removable(int(removable.sum()), len(removable))
    count = int(n_remove) if whole else max(1, int(n_remove * len(removable)))
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

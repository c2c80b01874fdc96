"""The numbers that a user gives: one check of ints, and the one rule for how many layers can be removed.

Shapes: L layers, P players (removable layers).
"""

from __future__ import annotations

from numbers import Integral
from typing import Any, TypeGuard

import numpy as np

from layershap.arrays import MaskArray


def is_int(value: object) -> TypeGuard[int]:
    """Whether a value is an int, NumPy's included; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_int(
    name: str, value: Any, least: int | None = None, most: int | None = None, *, other: str = "", meaning: str = ""
) -> int:
    """A parameter as a plain int.

    Parameters
    ----------
    name : str
        Name of the parameter, for the error.
    value : Any
        What the user gave. What else than an int is allowed must have been sorted out before.
    least, most : int, optional
        The range, both ends included. By default without an end.
    other : str, default=''
        What else is allowed, for the error: "'auto'".
    meaning : str, default=''
        What the number is, or where its range comes from, for the error.

    Raises
    ------
    TypeError
        Not an int.
    ValueError
        Outside the range.

    Examples
    --------
    >>> check_int("n_members", 1, 2, meaning="a spread needs two")
    Traceback (most recent call last):
    ...
    ValueError: n_members must be an int of at least 2 (a spread needs two), got 1
    """
    low, high = -np.inf if least is None else least, np.inf if most is None else most
    if is_int(value) and low <= value <= high:
        return int(value)
    kind = "an int"
    if most is not None:
        kind += f" in [{low}, {high}]"
    elif least is not None:
        kind += f" of at least {least}"
    kind += f", or {other}" if other else ""
    kind += f" ({meaning})" if meaning else ""
    error = ValueError if is_int(value) else TypeError
    raise error(f"{name} must be {kind}, got {value!r}")


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
    return check_int("max_remove", max_remove, 1, most, meaning=f"{n_players} of {n_layers} layers are removable")


def check_max_remove(max_remove: Any, n_remove: Any, removable: MaskArray) -> int:
    """The most layers that `fit` searches for, by `resolved_max_remove`.

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


def check_n_remove(n_remove: Any, removable: MaskArray, max_remove: int | None = None) -> int:
    """The number of layers to remove as an int, at least 1, all of them removable and at least one layer left.

    A fraction is one of all layers, rounded down to at least 1.

    Raises
    ------
    ValueError, TypeError
        Neither an int from 1 to `most_removable` nor a fraction of the layers; or more than `max_remove`, the most
        that a pruner searched for.
    """
    if n_remove is None:
        raise ValueError("how many layers? Give n_remove to transform, or to LayerPruner(n_remove=...)")
    whole = is_int(n_remove)
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

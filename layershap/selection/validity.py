"""Removal sets that a model can't lose altogether: hybrids must keep one attention layer, whichever it is."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from layershap.exceptions import TiedSelectionWarning
from layershap.protocols import FloatArray, IntArray, MaskArray, SelectionEvidence, Selector
from layershap.shapley import removal_order


def select_layers(selector: Selector, evidence: SelectionEvidence, n_remove: int) -> IntArray:
    """Sorted layers that a selector removes, checked, and changed where the model can't lose them all.

    A selector of the user's need not know which sets a hybrid model can't lose.
    """
    chosen = checked_selection(
        selector.select(evidence, n_remove), n_remove, evidence.removable, type(selector).__name__
    )
    return with_one_kept(chosen, evidence.keep_one_of, evidence.contributions, evidence.removable)


def sets_by_size(selector: Selector, evidence: SelectionEvidence, max_remove: int) -> list[list[int] | None]:
    """Sorted layers that a selector removes, for n = 1 to `max_remove`; None for a number that it can't do.

    Ties are not told of: the user has not asked for a set yet.
    """
    found: list[list[int] | None] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TiedSelectionWarning)
        for n_remove in range(1, max_remove + 1):
            try:
                found.append(select_layers(selector, evidence, n_remove).tolist())
            except ValueError:  # a selector need not be able to do every number
                found.append(None)
    return found


def checked_selection(chosen: object, n_remove: int, removable: MaskArray, selector: str) -> IntArray:
    """What a selector returned, as layer indices.

    Raises
    ------
    ValueError
        Not as many distinct removable layers as asked for.
    """
    layers = np.asarray(chosen)
    sound = layers.shape == (n_remove,) and np.issubdtype(layers.dtype, np.integer)
    if sound:
        inside = (layers >= 0) & (layers < len(removable))
        sound = bool(inside.all() and len(np.unique(layers)) == n_remove and removable[layers].all())
    if not sound:
        raise ValueError(
            f"a selector must return {n_remove} distinct indices of removable layers when asked for {n_remove}; "
            f"{selector} returned {chosen!r}"
        )
    return layers.astype(np.int64)


def with_one_kept(
    removed: Iterable[int], groups: Sequence[Sequence[int]], contributions: FloatArray, removable: MaskArray
) -> IntArray:
    """The set of players to remove, changed where it holds a whole group of which one must stay.

    Of such a group the player of the highest value stays; in its place goes the player of the lowest value that the
    groups allow.

    Parameters
    ----------
    removed : iterable of int
        What a selector chose.
    groups : sequence of sequences of int
        `layershap.surgery.keep_one_of` of the model.
    contributions : ndarray [L]
        Values; NaN for protected players.
    removable : ndarray [L] of bool
        False for protected players.

    Returns
    -------
    ndarray of int
        Sorted, as many as `removed`.

    Raises
    ------
    ValueError
        So many can't be removed.
    """
    chosen = {int(player) for player in removed}
    n_remove = len(chosen)
    values = np.where(removable, contributions, np.inf)
    for group in groups:
        if chosen.issuperset(group):
            chosen.remove(max(group, key=lambda player: values[player]))
    for player in removal_order(contributions, removable):
        if len(chosen) == n_remove:
            break
        joined = chosen | {int(player)}
        if removable[player] and not any(joined.issuperset(group) for group in groups):
            chosen = joined
    if len(chosen) < n_remove:
        raise ValueError(
            f"{n_remove} players can't be removed: of each of these groups one must stay, {[list(g) for g in groups]}; "
            f"at most {len(chosen)} can"
        )
    return np.array(sorted(chosen), dtype=np.int64)

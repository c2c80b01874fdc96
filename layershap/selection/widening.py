"""Greedy removal on a wider front: what the best few sets of each size lead to, not only the best.

Shapes: P players, N masks. True = layer kept.
"""

from __future__ import annotations

import numpy as np

from layershap.masks import children, distinct, is_among, mask_keys
from layershap.protocols import EvaluatedGame, MaskArray
from layershap.selection.best import best_of_size, race_the_best, removable_sets
from layershap.selection.bounds import upper_bounds
from layershap.selection.neighbourhoods import Predict


def widen(
    game: EvaluatedGame, predict: Predict, free_P: MaskArray, max_remove: int, at_most: int, *, n_parents: int
) -> None:
    """From small sets to large ones, evaluate the children of the best `n_parents` sets of each size.

    A set that is second by a hair often has the better children, which greedy never sees. Children that the bounds of
    `Greedy` exclude from the best `n_parents` are passed over. Of the masks to spend, every further size has a share in
    proportion to the layers removed, as a wrong turn costs more the further it leads; those that the surrogate prefers
    come first.

    Parameters
    ----------
    game : EvaluatedGame
        With the sets evaluated so far.
    predict : callable
        A surrogate's predictions [N] of masks [N, P].
    free_P : ndarray [P] of bool
        Players that may be removed.
    max_remove : int
        The largest size.
    at_most : int
        Masks to spend; none where it isn't positive.
    n_parents : int
        Sets of a size whose children are evaluated.
    """
    n_kept = game.n_left - at_most
    for n_remove in range(2, max_remove + 1):
        share = (game.n_left - n_kept) * n_remove // sum(range(n_remove, max_remove + 1))
        if share > 0 and len(fresh_NP := _children_of_best(game, free_P, n_remove, n_parents)):
            order = np.argsort(-predict(fresh_NP), kind="stable")
            race_the_best(game, fresh_NP[order[:share]], n_best=n_parents)


def _children_of_best(game: EvaluatedGame, free_P: MaskArray, n_remove: int, n_parents: int) -> MaskArray:
    """Sets of this size that may be among its best `n_parents`, and were not evaluated yet [N, P]."""
    masks, scores = removable_sets(game)
    parents_NP, _ = best_of_size(masks, scores, n_remove - 1, n_parents)
    _, best_scores = best_of_size(masks, scores, n_remove, n_parents)
    found = [children(mask_P, free_P) for mask_P in parents_NP if mask_P[~free_P].all()]
    if not found:
        return masks[:0]
    sets_NP = distinct(np.concatenate(found))
    fresh = game.allowed(sets_NP) & ~is_among(sets_NP, set(mask_keys(game.masks)))
    to_beat = best_scores[-1] if len(best_scores) == n_parents else -np.inf
    return sets_NP[fresh & (upper_bounds(sets_NP, masks, scores) >= to_beat)]

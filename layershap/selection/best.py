"""The best evaluated set of a size.

Shapes: M masks, L layers (or players). True = layer kept.
"""

from __future__ import annotations

import numpy as np

from layershap.exceptions import TiedSelectionWarning
from layershap.masks import distinct, first_rows
from layershap.protocols import EvaluatedGame, FloatArray, IntArray, MaskArray, SelectionEvidence
from layershap.tables import Table
from layershap.warning import warn_user

_TIE = 1e-12
"""Relative difference of scores up to which two sets are as good as each other."""


def best_evaluated(masks_ML: MaskArray, scores_M: FloatArray, n_remove: int) -> MaskArray | None:
    """The evaluated mask [L] with the highest finite score among those that lack `n_remove` layers; None without one.

    Ties go to the mask evaluated first.
    """
    eligible = np.flatnonzero(((~masks_ML).sum(axis=1) == n_remove) & np.isfinite(scores_M))
    return masks_ML[eligible[np.argmax(scores_M[eligible])]] if len(eligible) else None


def best_sets(masks_ML: MaskArray, scores_M: FloatArray) -> dict[int, list[int]]:
    """The layers that the best evaluated mask lacks, by their number; sizes without a finite score are left out."""
    sizes = np.unique((~masks_ML).sum(axis=1))
    best = {int(n): best_evaluated(masks_ML, scores_M, int(n)) for n in sizes}
    return {n: [int(layer) for layer in np.flatnonzero(~mask_L)] for n, mask_L in best.items() if mask_L is not None}


def table_of_sets(masks_ML: MaskArray, scores_M: FloatArray) -> Table:
    """The best evaluated set of each size, how many of that size were evaluated, and its score."""
    removed_M = (~masks_ML).sum(axis=1)
    rows = tuple(
        (n, int((removed_M == n).sum()), best_score(masks_ML, scores_M, n), ", ".join(map(str, layers)))
        for n, layers in best_sets(masks_ML, scores_M).items()
    )
    return Table("best evaluated set of each size, on this text", ("removed", "masks", "score", "layers"), rows)


def best_score(masks_ML: MaskArray, scores_M: FloatArray, n_remove: int) -> float:
    """The highest finite score among the evaluated masks that lack `n_remove` layers; -inf without one."""
    of_size = (~masks_ML).sum(axis=1) == n_remove
    return float(finite_or_worst(scores_M[of_size]).max(initial=-np.inf))


def best_of_size(masks_ML: MaskArray, scores_M: FloatArray, n_remove: int, count: int) -> tuple[MaskArray, FloatArray]:
    """The best `count` distinct evaluated masks that lack `n_remove` layers, best first, and their scores.

    Ties go to the mask evaluated first; a score that is not finite is the worst.
    """
    of_size = np.flatnonzero((~masks_ML).sum(axis=1) == n_remove)
    of_size = of_size[first_rows(masks_ML[of_size])]
    scores = finite_or_worst(scores_M[of_size])
    order = np.argsort(-scores, kind="stable")[:count]
    return masks_ML[of_size[order]], scores[order]


def removable_sets(game: EvaluatedGame) -> tuple[MaskArray, FloatArray]:
    """The masks scored on all of the text that stand for sets which the model can lose, and their scores."""
    rows = game.allowed(game.masks) & game.complete
    return game.masks[rows], game.scores[rows]


def race_the_best(game: EvaluatedGame, masks_NP: MaskArray, *, n_best: int) -> None:
    """Race new sets against the best `n_best` known ones of their sizes."""
    masks, scores = removable_sets(game)
    known = [best_of_size(masks, scores, int(size), n_best)[0] for size in np.unique((~masks_NP).sum(axis=1))]
    game.race(np.concatenate([masks_NP, *known]), n_best)


def select_best(evidence: SelectionEvidence, n_remove: int) -> IntArray:
    """Sorted indices of the layers of the best evaluated set of this size; of the final choice, where there was one.

    Raises
    ------
    ValueError
        None was evaluated.

    Warns
    -----
    TiedSelectionWarning
        Another evaluated set of this size scores the same.
    """
    if evidence.final_masks is not None and n_remove <= len(evidence.final_masks):
        final = evidence.final_masks[n_remove - 1]
        if not final.all():
            return np.flatnonzero(~final)
    rows = evidence.allowed()
    masks, scores = evidence.masks[rows], evidence.scores[rows]
    of_size = (~masks).sum(axis=1) == n_remove
    if not of_size.any():
        raise ValueError(
            f"no set of {n_remove} layers that this model can lose was evaluated; fit with max_remove={n_remove}"
        )
    best, *others = tied_sets(masks[of_size], scores[of_size])
    warn_of_tie(best, others, float(scores[of_size].max()))
    return np.flatnonzero(~best)


def tied_sets(masks_ML: MaskArray, scores_M: FloatArray) -> list[MaskArray]:
    """The masks with the highest score, give or take rounding: the one evaluated first, then the others."""
    highest = np.isclose(scores_M, scores_M.max(), rtol=_TIE, atol=0.0)
    best = masks_ML[int(np.argmax(scores_M))]
    others = distinct(masks_ML[highest])
    return [best, *(mask for mask in others if (mask != best).any())]


def warn_of_tie(best: MaskArray, others: list[MaskArray], score: float) -> None:
    """Warn that other sets of layers are as good as the one chosen, if there are any."""
    if others:
        removed = [np.flatnonzero(~mask).tolist() for mask in others[:3]]
        warn_user(
            f"{len(others) + 1} sets of {(~best).sum()} layers score {score:g} on the calibration data; "
            f"{np.flatnonzero(~best).tolist()} is taken, the others are {removed}"
            f"{'...' if len(others) > 3 else ''}. More calibration text tells them apart.",
            TiedSelectionWarning,
        )


def finite_or_worst(scores: FloatArray) -> FloatArray:
    """Scores with -inf for what is not finite."""
    return np.where(np.isfinite(scores), scores, -np.inf)

"""The final choice by sequential halving: the best few sets of each size, on more and more calibration text.

What is left of a search's error is the noise of its calibration text; more text for a few sets is cheaper than more
text for all masks.

Shapes: L layers, N numbers of layers removed, C candidates, S calibration sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from layershap.budget import mean_layer_runs
from layershap.calibration import Calibration
from layershap.evidence import Evidence
from layershap.game import LayerGame
from layershap.ledger import mask_key
from layershap.protocols import FloatArray, MaskArray, SequenceStatistics, Utility

_CANDIDATES = 8
"""Sets of each size at the start."""


@dataclass(frozen=True)
class FinalChoice:
    """What halving chose, and what it took.

    Attributes
    ----------
    masks : ndarray [N, L]
        Row n - 1: the set of n layers chosen.
    n_sequences : int
        Calibration sequences behind the last comparison.
    layer_run_tokens : float
        Spent on top of the search.
    """

    masks: MaskArray
    n_sequences: int
    layer_run_tokens: float


def halve(
    game: LayerGame,
    evidence: Evidence,
    parts: Sequence[Calibration],
    open_game: Callable[[Calibration], LayerGame],
    budget: float,
) -> FinalChoice:
    """Compare the best eight sets of each size on the search's text, keep half; on twice the text, keep half; ...

    Parameters
    ----------
    game : LayerGame
        The search's, with its statistics.
    evidence : Evidence
        What it evaluated.
    parts : sequence of Calibration
        Further text, each part as long as all before it together.
    open_game : callable
        A game on such a part.
    budget : float
        Layer runs x tokens that may be spent.

    References
    ----------
    Karnin, Koren & Somekh, Almost optimal exploration in multi-armed bandits, 2013.
    """
    rows = evidence.finite & evidence.allowed(game.keep_one_of)
    sets = [_best_sets(evidence.masks[rows], evidence.scores[rows], n, _CANDIDATES) for n in _sizes(evidence)]
    masks_CL = np.concatenate(sets)
    statistics = game.statistics(masks_CL)
    spent = 0.0
    for part in parts:
        keep_C = _best_half(masks_CL, _scores(game, statistics))
        if len(keep_C) == len(sets):
            break
        tokens = part.n_sequences * part.seq_len
        if spent + len(keep_C) * mean_layer_runs(game.n_players) * tokens > budget:
            break
        masks_CL, statistics = masks_CL[keep_C], statistics.of_masks(keep_C)
        with open_game(part) as further:
            statistics = statistics.with_sequences(further.statistics(masks_CL))
            spent += further.layer_runs * tokens
    scores = dict(zip(map(mask_key, masks_CL), _scores(game, statistics), strict=True))
    alive = {mask_key(mask) for mask in masks_CL}
    chosen = [max((m for m in of_size if mask_key(m) in alive), key=lambda m: scores[mask_key(m)]) for of_size in sets]
    return FinalChoice(np.array(chosen), len(statistics.counts), spent)


def _sizes(evidence: Evidence) -> range:
    return range(1, evidence.max_remove + 1)


def _best_sets(masks: MaskArray, scores: FloatArray, n_remove: int, count: int) -> MaskArray:
    of_size = np.flatnonzero((~masks).sum(axis=1) == n_remove)
    _, first = np.unique(masks[of_size], axis=0, return_index=True)
    of_size = of_size[np.sort(first)]
    return masks[of_size[np.argsort(-scores[of_size], kind="stable")[:count]]]


def _best_half(masks_CL: MaskArray, scores_C: FloatArray) -> np.ndarray:
    """The better half of each size, rounded up, as sorted indices."""
    sizes = (~masks_CL).sum(axis=1)
    kept: list[int] = []
    for size in np.unique(sizes):
        of_size = np.flatnonzero(sizes == size)
        kept.extend(of_size[np.argsort(-scores_C[of_size], kind="stable")[: -(-len(of_size) // 2)]])
    return np.sort(np.array(kept))


def _scores(game: LayerGame, statistics: SequenceStatistics) -> FloatArray:
    assert isinstance(game.utility, Utility)
    return game.utility.score(statistics)

"""The final choice by sequential halving: the best few sets of each size, on more and more calibration text.

What is left of a search's error is the noise of its calibration text; more text for a few sets is cheaper than more
text for all masks.

Shapes: L layers, N numbers of layers removed, C candidates, S calibration sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from layershap.calibration import Calibration
from layershap.fitting.budget import Spending
from layershap.fitting.evidence import Evidence
from layershap.game import LayerGame
from layershap.protocols import FloatArray, IntArray, MaskArray, Utility
from layershap.selection.best import best_of_size, tied_sets, warn_of_tie
from layershap.selection.greedy import evaluated_path

_CANDIDATES = 8
"""Sets of each size that go on to further text. On 32 sequences the best ones differ by less than their errors."""


@dataclass(frozen=True)
class FinalChoice:
    """What halving chose, and what it took.

    Attributes
    ----------
    masks : ndarray [N, L] or None
        Row n - 1: the set of n layers chosen, all True where none was evaluated. None where no further text was paid
        for.
    diagnostics : dict
        ``final_sequences``, behind the last comparison, and ``layer_run_tokens``, spent in all; empty without masks.
    """

    masks: MaskArray | None
    diagnostics: dict[str, Any]


def final_choice(
    game: LayerGame, evidence: Evidence, spending: Spending, open_game: Callable[[Calibration], LayerGame]
) -> FinalChoice:
    """Compare the best 8 sets of each size on twice the search's text, the best 4 of them on twice that, and so on.

    The sets on greedy's path, as it is on the search's text, stay to the end.

    Parameters
    ----------
    game : LayerGame
        The search's, with its statistics.
    evidence : Evidence
        What it evaluated.
    spending : Spending
        The further text, and how much may be spent.
    open_game : callable
        A game on a part of that text.

    References
    ----------
    Karnin, Koren & Somekh, Almost optimal exploration in multi-armed bandits, 2013.
    """
    if not spending.more or not isinstance(game.utility, Utility):
        return FinalChoice(None, {})
    game.progress.close()  # The games on further text have bars of their own.
    rows = evidence.finite & evidence.allowed(game.keep_one_of)
    masks, scores = evidence.masks[rows], evidence.scores[rows]
    greedy = evaluated_path(masks, scores, evidence.max_remove)
    best = [mask for n in range(1, evidence.max_remove + 1) for mask in best_of_size(masks, scores, n, _CANDIDATES)[0]]
    masks_CL = np.unique([*best, *greedy], axis=0)
    statistics = game.statistics(masks_CL)
    spent = float(game.layer_runs_charged * game.calibration.n_sequences * game.calibration.seq_len)
    for step, part in enumerate(spending.more, start=1):
        keep_C = _best_of_sizes(masks_CL, game.utility.score(statistics), _kept(step))
        tokens = part.n_sequences * part.seq_len
        if len(keep_C) == len(np.unique((~masks_CL).sum(axis=1))):
            break
        keep_C = np.union1d(keep_C, _rows_of(masks_CL, greedy))
        with open_game(part) as further:
            # The statistics are over those of the model with all its layers.
            dense = np.ones((1, game.n_players), dtype=bool)
            charge = further.charge(dense) + further.charge(masks_CL[keep_C])
            if spent + charge * tokens > spending.budget:
                break
            masks_CL, statistics = masks_CL[keep_C], statistics.of_masks(keep_C)
            statistics = statistics.with_sequences(further.statistics(masks_CL))
            spent += further.layer_runs_charged * tokens
    scores_C = game.utility.score(statistics)
    chosen_NL = np.ones((evidence.max_remove, game.n_players), dtype=bool)
    for mask_L in masks_CL[_best_of_sizes(masks_CL, scores_C, 1)]:
        chosen_NL[(~mask_L).sum() - 1] = mask_L
    _warn_of_ties(masks_CL, scores_C)
    diagnostics = {"final_sequences": len(statistics.counts), "layer_run_tokens": spent}
    return FinalChoice(chosen_NL, diagnostics)


def _warn_of_ties(masks_CL: MaskArray, scores_C: FloatArray) -> None:
    sizes_C = (~masks_CL).sum(axis=1)
    for size in np.unique(sizes_C):
        best, *others = tied_sets(masks_CL[sizes_C == size], scores_C[sizes_C == size])
        warn_of_tie(best, others, float(scores_C[sizes_C == size].max()), stacklevel=5)


def most_compared(step: int) -> int:
    """The most sets of each size that are evaluated on the further text of this step, counted from 1: the best that
    are kept, and greedy's. None once a single one is kept.
    """
    return _kept(step) + 1 if _kept(step) > 1 else 0


def _kept(step: int) -> int:
    return max(1, _CANDIDATES >> (step - 1))


def _rows_of(masks_CL: MaskArray, wanted: list[MaskArray]) -> IntArray:
    keys = {mask.tobytes() for mask in wanted}
    return np.array([row for row, mask in enumerate(masks_CL) if mask.tobytes() in keys], dtype=np.int64)


def _best_of_sizes(masks_CL: MaskArray, scores_C: FloatArray, count: int) -> IntArray:
    """Indices of the best `count` sets of each size, or all where there are fewer; sizes in ascending order."""
    sizes = (~masks_CL).sum(axis=1)
    kept: list[int] = []
    for size in np.unique(sizes):
        of_size = np.flatnonzero(sizes == size)
        kept.extend(of_size[np.argsort(-scores_C[of_size], kind="stable")[:count]])
    return np.array(kept, dtype=np.int64)

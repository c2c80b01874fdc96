"""Perplexities of any masks on a problem's texts, each evaluated once and kept in a ledger between runs.

Shapes: M masks, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.common import CACHE
from benchmarks.selection.problems import Problem
from layershap import LayerGame
from layershap.protocols import FloatArray, MaskArray
from layershap.shapley import all_masks


def ledger_of(problem: Problem, seed: int, text: str = "calibration") -> Path:
    """The file that methods and the enumeration share for one calibration set."""
    return CACHE / f"{problem.name}_{text}{seed}.jsonl"


def masks_of(fitted: Any, n_layers: int, max_remove: int) -> MaskArray:
    """The chosen masks [N, L]; an all-False row where the method can't remove so many."""
    masks = np.zeros((max_remove, n_layers), dtype=bool)
    for n in range(1, max_remove + 1):
        try:
            removed = fitted.removed_layers(n)
        except ValueError:
            continue
        masks[n - 1] = True
        masks[n - 1, removed] = False
    return masks


def perplexities(game: LayerGame, masks: MaskArray) -> FloatArray:
    statistics = game.statistics(masks)
    with np.errstate(over="ignore"):
        return np.exp(statistics.sums["nll"].sum(axis=1) / statistics.counts.sum())


def calibration_perplexities(problem: Problem, seed: int, masks: MaskArray) -> FloatArray:
    with LayerGame(problem.model, problem.calibrations[seed], ledger=ledger_of(problem, seed)) as game:
        return perplexities(game, masks)


def all_calibration_perplexities(problem: Problem, seed: int) -> FloatArray:
    """Of all coalitions [2^L] in the order of `all_masks`."""
    return calibration_perplexities(problem, seed, all_masks(problem.n_layers))


def held_out_perplexities(problem: Problem, masks: MaskArray) -> FloatArray:
    with LayerGame(problem.model, problem.test, ledger=CACHE / f"{problem.name}_test.jsonl") as game:
        return perplexities(game, masks)


def other_perplexities(problem: Problem, masks: MaskArray) -> FloatArray:
    """On other texts; NaN where the problem has none."""
    if problem.other is None:
        return np.full(len(masks), np.nan)
    with LayerGame(problem.model, problem.other, ledger=CACHE / f"{problem.name}_other.jsonl") as game:
        return perplexities(game, masks)


@dataclass
class Spent:
    """What a fit asked for, whether or not the ledger already held it: distinct masks, on however much of the text (the
    intact model, which is the same for every method, is no mask), and layer runs x tokens.
    """

    masks: int = 0
    layer_run_tokens: int = 0
    paid: int = field(default=0, compare=False)
    """Those of the layer runs x tokens that no ledger supplied."""


@contextmanager
def counted() -> Iterator[Spent]:
    """Count what the games that are closed in the context were asked for."""
    spent = Spent()
    close = LayerGame.close
    seen: set[LayerGame] = set()

    def read_and_close(game: LayerGame) -> None:
        if game not in seen:
            seen.add(game)
            # The game on the first part of a text has all masks.
            spent.masks = max(spent.masks, game.n_asked - 1)
            spent.layer_run_tokens += game.layer_runs_in_all * game.calibration.ids_ST.numel()
            spent.paid += game.layer_runs * game.calibration.ids_ST.numel()
        close(game)

    with patch.object(LayerGame, "close", read_and_close):
        yield spent

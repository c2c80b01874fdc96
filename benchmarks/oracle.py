"""Perplexities of any masks on a problem's texts, each evaluated once and kept in a ledger between runs.

Shapes: M masks, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from problems import HERE, Problem

from layershap import LayerGame
from layershap.game.evaluated import EvaluatedMasks
from layershap.protocols import FloatArray, MaskArray
from layershap.shapley import all_masks

RESULTS = HERE / "results"


def ledger_of(problem: Problem, seed: int, text: str = "calibration") -> Path:
    """The file that methods and the enumeration share for one calibration set."""
    return RESULTS / f"{problem.name}_{text}{seed}.jsonl"


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
    with LayerGame(problem.model, problem.test, ledger=RESULTS / f"{problem.name}_test.jsonl") as game:
        return perplexities(game, masks)


def other_perplexities(problem: Problem, masks: MaskArray) -> FloatArray:
    """On other texts; NaN where the problem has none."""
    if problem.other is None:
        return np.full(len(masks), np.nan)
    with LayerGame(problem.model, problem.other, ledger=RESULTS / f"{problem.name}_other.jsonl") as game:
        return perplexities(game, masks)


@dataclass
class Spent:
    """What a fit asked for, whether or not the ledger already held it: masks and layer runs, each mask once per text
    (the intact model, which is the same for every method, is no mask), and layer runs x tokens.
    """

    masks: int = 0
    layer_runs: int = 0
    tokens: int = 0


@contextmanager
def counted() -> Iterator[Spent]:
    """Count what every game in the context is asked for."""
    spent = Spent()
    original = EvaluatedMasks.evaluate

    def evaluate(evaluated: EvaluatedMasks, masks: MaskArray) -> None:
        new = evaluated.pending(masks)
        if len(new):
            layer_runs = evaluated.engine.plan(new).layer_runs
            spent.masks += len(new) - int(new.all(axis=1).any())
            spent.layer_runs += layer_runs
            spent.tokens += layer_runs * evaluated.engine.calibration.ids_ST.numel()
        original(evaluated, masks)

    with patch.object(EvaluatedMasks, "evaluate", evaluate):
        yield spent

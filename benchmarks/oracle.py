"""Perplexities of any masks on a problem's texts, every one evaluated once and kept in a ledger between runs.

Shapes: M masks, L layers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from problems import HERE, Problem

from layershap import Calibration, LayerGame
from layershap.protocols import FloatArray, MaskArray
from layershap.shapley import all_masks

RESULTS = HERE / "results"


class Oracle:
    """``oracle(masks [M, L]) -> perplexities [M]`` on one text."""

    def __init__(
        self, problem: Problem, text: Calibration, name: str, *, enumerate_all: bool, folder: Path = RESULTS
    ) -> None:
        self.game = LayerGame(
            problem.model, text, ledger=folder / f"{problem.name}_{name}.jsonl", batch_tokens=2048, memory_budget=2**30
        )
        if enumerate_all:
            self.game(all_masks(problem.n_layers)[1:])

    def __call__(self, masks: MaskArray) -> FloatArray:
        statistics = self.game.statistics(masks)
        with np.errstate(over="ignore"):
            return np.exp(statistics.sums["nll"].sum(axis=1) / statistics.counts.sum())


def calibration_oracle(problem: Problem, seed: int) -> Oracle:
    return Oracle(problem, problem.calibrations[seed], f"calibration{seed}", enumerate_all=problem.enumerable)


def held_out_oracle(problem: Problem) -> Oracle:
    return Oracle(problem, problem.test, "test", enumerate_all=False)

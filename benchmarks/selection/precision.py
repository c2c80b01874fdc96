"""How far does half precision move the lead of one set of layers over another, beside what the text leaves open?

    python -m benchmarks.selection.precision --write benchmarks/results/precision.md

For each number of layers the best set of the leaderboard and random neighbours of it (one layer swapped) are scored,
in the model's precision, on calibration sequences; the best four compete, as in a fit's final choice. These are scored
once more with the same weights in float32. A lead is the mean loss of another set less that of the best, in nats per
token; its rounding error is the lead in the model's precision less that in float32.

Shapes: C candidates, S sequences, P pairs of the best set and another.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import markdown, print_or_write, provenance
from benchmarks.leaderboard.board import Board
from benchmarks.selection.generalisation import Problem, problem_of
from layershap import LayerGame
from layershap.masks import swaps, without
from layershap.model.split import find_players
from layershap.model.upcast import in_float32

_NEIGHBOURS, _COMPETE = 8, 4


@dataclass(frozen=True)
class Losses:
    """Mean loss of each candidate on each sequence [C, S] in both precisions, the best first, and CPU seconds."""

    narrow: np.ndarray
    wide: np.ndarray
    seconds: tuple[float, float]

    @property
    def leads(self) -> np.ndarray:
        """[P, S], in the model's precision."""
        return self.narrow[1:] - self.narrow[:1]

    @property
    def rounding(self) -> np.ndarray:
        """Errors of the leads [P, S]."""
        return self.leads - (self.wide[1:] - self.wide[:1])


def neighbours(best: list[int], n_layers: int, rng: np.random.Generator) -> np.ndarray:
    """Masks of the set and of some that differ from it in one layer [C, L]."""
    best_L = without(best, n_layers)
    every = swaps(best_L, np.ones(n_layers, dtype=bool))
    return np.concatenate([best_L[None], every[rng.choice(len(every), _NEIGHBOURS, replace=False)]])


def losses(game: LayerGame, masks: np.ndarray) -> np.ndarray:
    found = game.statistics(masks)
    return found.sums["nll"] / found.counts


def measured(problem: Problem, best: list[int], n_sequences: int) -> Losses:
    model, text = problem.model, problem.calibration(0, n_sequences)
    masks = neighbours(best, model.config.num_hidden_layers, np.random.default_rng(len(best)))
    with LayerGame(model, text) as game:
        found = losses(game, masks)
    order = np.argsort(found.mean(axis=1))[:_COMPETE]
    seconds, both = [], []
    for wide in (False, True):
        start = time.process_time()
        precision = in_float32(model, find_players(model, None, "layer").layers) if wide else nullcontext()
        with precision, LayerGame(model, text) as game:
            both.append(losses(game, masks[order]))
        seconds.append(time.process_time() - start)
    return Losses(both[0], both[1], (seconds[0], seconds[1]))


def row(n_remove: int, found: Losses) -> list[str]:
    n_sequences = found.leads.shape[1]
    per_sequence = np.sqrt(np.mean(found.rounding.var(axis=1, ddof=1)))
    of_text = np.sqrt(np.mean(found.leads.var(axis=1, ddof=1)))
    bias = found.rounding.mean(axis=1)
    same = np.argmin(found.wide.mean(axis=1)) == 0
    return [
        str(n_remove),
        ", ".join(f"{lead:.4f}" for lead in found.leads.mean(axis=1)),
        ", ".join(f"{lead:+.5f}" for lead in bias),
        f"{per_sequence:.4f}",
        f"{per_sequence / np.sqrt(n_sequences):.5f}",
        f"{of_text:.4f}",
        f"{of_text / np.sqrt(n_sequences):.5f}",
        f"{(per_sequence / of_text) ** 2:.1%}",
        "yes" if same else "no",
        f"{found.seconds[0]:.0f}, {found.seconds[1]:.0f}",
    ]


HEADER = [
    "removed",
    "leads of the best over three others",
    "their rounding errors",
    "rounding, sd per sequence",
    "in the mean",
    "text, sd per sequence",
    "in the mean",
    "rounding's share of the variance",
    "float32 chooses the same",
    "CPU seconds: own precision, float32",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--depths", type=int, nargs="+", default=[3, 6, 9, 12])
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    problem = problem_of(options.model)
    board = Board.read(options.model)
    measure = next(iter(board.measures))
    rows = []
    for n_remove in options.depths:
        best = board.best(measure, n_remove)
        if best is None:
            raise SystemExit(f"no set of {n_remove} layers is known; there are sets of {board.sizes()}")
        rows.append(row(n_remove, measured(problem, best.removed, options.sequences)))
        print(rows[-1], flush=True)
    text = f"{problem.title}; {options.sequences} sequences of 128 tokens; nats per token:"
    print_or_write(f"{provenance()}\n\n{text}\n\n{markdown(HEADER, rows)}", options.write)


if __name__ == "__main__":
    main()

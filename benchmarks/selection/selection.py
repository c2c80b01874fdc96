"""Which layers? Every method on trained models, against the optimum (or the best set that any method found).

    python -m benchmarks.selection.selection [--quick | --full] [--models gpt2 stories llama24 ...]
        [--write benchmarks/results/selection.md]

Prints Markdown tables with the command that made them, and writes them between the markers of a document. For each
model, three calibration sets of 32 x 128 tokens, and every number of removed layers from 1 to two thirds. The models
that are not shipped are trained by `scripts/train_benchmark_models.py`. Evaluated masks are kept in
`benchmarks/cache`, so that a second run is cheap; the costs shown are those of a first one.

Shapes: L layers, N numbers of removed layers, R calibration sets.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import LENGTH, provenance, write_between
from benchmarks.selection.methods import EXACT, ON_MORE_TEXT, OPTIMUM, methods
from benchmarks.selection.oracle import (
    all_calibration_perplexities,
    calibration_perplexities,
    counted,
    held_out_perplexities,
    ledger_of,
    masks_of,
    other_perplexities,
    perplexities,
)
from benchmarks.selection.problems import MORE_SEQUENCES, PROBLEMS, SEEDS, SEQUENCES, Problem
from benchmarks.selection.tables import PAPER_MASKS, Result, depth_table, on_more, reach, regret_table
from layershap import Calibration, LayerGame, LayerPruner, StratifiedSampler
from layershap.exceptions import SurrogateQualityWarning
from layershap.protocols import FloatArray, MaskArray
from layershap.shapley import all_masks, exact_from_table


def measured(problem: Problem, seed: int, masks: MaskArray) -> FloatArray:
    """Perplexities on the calibration, test and other texts [3, N]; NaN for an all-False row."""
    possible = masks.any(axis=1)
    found = np.full((3, len(masks)), np.nan)
    found[:, possible] = (
        calibration_perplexities(problem, seed, masks[possible]),
        held_out_perplexities(problem, masks[possible]),
        other_perplexities(problem, masks[possible]),
    )
    return found


def narrowed(problem: Problem, seed: int, fitted: Any, max_remove: int) -> FloatArray:
    """The same for a method that narrows the model instead of removing layers."""
    found = np.full((3, max_remove), np.nan)
    for n in range(1, max_remove + 1):
        try:
            narrow = fitted.transform(problem.model, n)
        except ValueError:
            continue
        for row, text in zip(found, (problem.calibrations[seed], problem.test, problem.other)):
            if text is not None:
                row[n - 1] = perplexities(LayerGame(narrow, text), np.ones((1, problem.n_layers), dtype=bool))[0]
    return found


def run(
    problem: Problem,
    every: dict[str, Callable[[int], Any]],
    max_remove: int,
    seeds: tuple[int, ...],
    texts: tuple[Calibration, ...],
    text_name: str,
) -> dict[str, Result]:
    """Fit every method on each seed's text, measure what it chose."""
    results: dict[str, Result] = {}
    for name, make in every.items():
        rows: list[FloatArray] = []
        spending: list[tuple[float, float, float]] = []
        for seed in seeds:
            method = make(seed)
            if "ledger" in method.get_params(deep=False):
                # A search has its text in parts, each with a ledger of its own.
                own = "_parts" if isinstance(method, LayerPruner) else ""
                method.set_params(ledger=ledger_of(problem, seed, text_name + own))
            with counted() as spent, warnings.catch_warnings():
                warnings.simplefilter("ignore", SurrogateQualityWarning)
                method.fit(problem.model, texts[seed])
            if hasattr(method, "removed_layers"):
                rows.append(measured(problem, seed, masks_of(method, problem.n_layers, max_remove)))
            else:
                rows.append(narrowed(problem, seed, method, max_remove))
            n_tokens = texts[seed].ids_ST.numel()
            if not spent.layer_run_tokens:
                # Methods that read hidden states or gradients play no game; they count their runs themselves.
                spent.layer_run_tokens = method.diagnostics_["layer_runs"] * n_tokens
            spending.append((spent.masks, spent.layer_run_tokens / n_tokens, spent.layer_run_tokens))
        masks, layer_runs, layer_run_tokens = np.mean(spending, axis=0).tolist()
        calibration, test, other = np.stack(rows, axis=1)
        results[name] = Result(calibration, test, other, masks, layer_runs, layer_run_tokens)
        print(f"{problem.name}, {text_name}: {name}", file=sys.stderr, flush=True)
    return results


def on_more_text(problem: Problem, max_remove: int, seeds: tuple[int, ...], every: dict[str, Any]) -> dict[str, Result]:
    """The same methods on more of the same text. What they choose isn't judged on the smaller set: no regret."""
    found = run(problem, {name: every[name] for name in ON_MORE_TEXT}, max_remove, seeds, problem.more, "more")
    return {
        on_more(name): replace(result, calibration=np.full_like(result.test, np.nan)) for name, result in found.items()
    }


def exact_ranking(problem: Problem, max_remove: int, seeds: tuple[int, ...]) -> Result:
    """Layers in ascending order of their exact Shapley values, from all 2^L coalitions."""
    rows = []
    for seed in seeds:
        perplexity = all_calibration_perplexities(problem, seed)
        order = np.argsort(exact_from_table(perplexity[-1] / perplexity), kind="stable")
        masks = np.ones((max_remove, problem.n_layers), dtype=bool)
        for n in range(1, max_remove + 1):
            masks[n - 1, order[:n]] = False
        rows.append(measured(problem, seed, masks))
    game = LayerGame(problem.model, problem.calibrations[0])
    runs = game.plan(all_masks(problem.n_layers)).layer_runs
    calibration, test, other = np.stack(rows, axis=1)
    return Result(calibration, test, other, 2**problem.n_layers, runs, runs * SEQUENCES * LENGTH)


def paper_layer_runs(problem: Problem) -> int:
    """What the paper's 8,000 masks cost with shared prefixes; planned, not run."""
    masks = StratifiedSampler(replace=True).sample(problem.n_layers, PAPER_MASKS, np.random.default_rng(0))
    return LayerGame(problem.model, problem.calibrations[0]).plan(masks).layer_runs


def report(name: str, quick: bool, full: bool) -> str:
    problem = PROBLEMS[name]()
    seeds = SEEDS[:1] if quick else SEEDS
    max_remove = problem.max_remove
    affordable = full or problem.enumerable
    paper_masks = (512,) if not affordable else (512, PAPER_MASKS) if quick else (512, 2000, PAPER_MASKS)
    llama = problem.model.config.model_type == "llama"
    every = methods(problem.n_layers, max_remove, paper_masks, llama=llama)
    results = run(problem, every, max_remove, seeds, problem.calibrations, "calibration")
    if problem.enumerable:
        results[EXACT] = exact_ranking(problem, max_remove, seeds)
    results |= on_more_text(problem, max_remove, seeds, every)
    nothing = np.ones((1, problem.n_layers), dtype=bool)
    dense, dense_other = held_out_perplexities(problem, nothing)[0], other_perplexities(problem, nothing)[0]
    elsewhere = f", on other texts {dense_other:.1f}" if problem.other is not None else ""
    best = "the optimum" if OPTIMUM in results else "the best set that any method found"
    parts = [
        f"### {problem.title}",
        f"Test perplexity with all layers {dense:.1f}{elsewhere}; n from 1 to {max_remove}; {len(seeds)} calibration "
        f"sets. Regret: calibration perplexity over that of {best} at the same n and on the same text, minus one; "
        "excess: perplexity on test text, and on other texts, over the lowest of all sets here. Means over n and "
        f"calibration sets, worst in brackets. A calibration set has {SEQUENCES} x {LENGTH} tokens, or "
        f"{MORE_SEQUENCES} x {LENGTH} where a row says so.",
        regret_table(results),
        "Test perplexity by number of layers removed (means over the calibration sets):",
        depth_table(results, max_remove),
        "Against the targets:",
        "\n".join(f"- {line}" for line in reach(results, problem.n_layers, paper_layer_runs(problem))),
    ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--quick", action="store_true", help="one calibration set instead of three")
    parser.add_argument(
        "--full", action="store_true", help="the paper's 8,000 masks also where 2^L is more than that (hours)"
    )
    parser.add_argument("--write", type=Path, help="a page; between its markers <!-- tables: begin --> and end")
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = [provenance()]
    print(parts[0], flush=True)
    for name in args.models:
        try:
            parts.append(report(name, args.quick, args.full))
        except FileNotFoundError as error:
            parts.append(f"### {name}\n\nSkipped: {error}.")
        print("\n" + parts[-1], flush=True)
    if args.write:
        write_between(args.write, "tables", "\n\n".join(parts))


if __name__ == "__main__":
    main()

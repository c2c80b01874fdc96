"""Which layers? Every method on trained models, against the optimum (or the best set that any method found).

    python benchmarks/selection.py [--quick | --full] [--models gpt2 stories llama24 mamba2] [--write docs/choosing.md]

Prints Markdown tables with the command that made them, and writes them between the markers of a document. For each
model, three calibration sets of 10 x 128 tokens, and every number of removed layers from 1 to two thirds. The models
that are not shipped are trained by `scripts/train_benchmark_models.py`. Evaluated masks are kept in
`benchmarks/results`, so that a second run is cheap; the costs shown are those of a first one.

Shapes: L layers, N numbers of removed layers, R calibration sets.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods import DEFAULT, EXACT, GREEDY, ONE_SHOT, OPTIMUM, SHORT_GPT, SLICE_GPT, methods
from oracle import (
    all_calibration_perplexities,
    calibration_perplexities,
    counted,
    held_out_perplexities,
    ledger_of,
    perplexities,
)
from problems import LENGTH, PROBLEMS, SEEDS, SEQUENCES, Problem

from layershap import LayerGame, StratifiedSampler
from layershap.exceptions import SurrogateQualityWarning
from layershap.protocols import FloatArray, MaskArray
from layershap.shapley import all_masks, exact_from_table

PAPER_MASKS = 8000
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


@dataclass(frozen=True)
class Result:
    """What one method chose on one model: perplexities [R, N] (NaN where it can't remove so many) and mean costs."""

    calibration: FloatArray
    test: FloatArray
    masks: float
    layer_runs: float


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


def measured(problem: Problem, seed: int, masks: MaskArray) -> tuple[FloatArray, FloatArray]:
    """Calibration and test perplexities [N]; NaN for an all-False row."""
    possible = masks.any(axis=1)
    found = []
    for values in (
        calibration_perplexities(problem, seed, masks[possible]),
        held_out_perplexities(problem, masks[possible]),
    ):
        full = np.full(len(masks), np.nan)
        full[possible] = values
        found.append(full)
    return found[0], found[1]


def narrowed(problem: Problem, seed: int, fitted: Any, max_remove: int) -> tuple[FloatArray, FloatArray]:
    """The same for a method that narrows the model instead of removing layers."""
    found = np.full((2, max_remove), np.nan)
    for n in range(1, max_remove + 1):
        try:
            narrow = fitted.transform(problem.model, n)
        except ValueError:
            continue
        for row, text in zip(found, (problem.calibrations[seed], problem.test)):
            row[n - 1] = perplexities(LayerGame(narrow, text), np.ones((1, problem.n_layers), dtype=bool))[0]
    return found[0], found[1]


def run(problem: Problem, max_remove: int, paper_masks: tuple[int, ...], seeds: tuple[int, ...]) -> dict[str, Result]:
    results: dict[str, Result] = {}
    llama = problem.model.config.model_type == "llama"
    every = methods(problem.n_layers, max_remove, paper_masks, llama=llama)
    for name, make in every.items():
        rows, masks, runs = [], [], []
        for seed in seeds:
            method = make(seed)
            if "ledger" in method.get_params(deep=False):
                method.set_params(ledger=ledger_of(problem, seed))
            with counted() as spent, warnings.catch_warnings():
                warnings.simplefilter("ignore", SurrogateQualityWarning)
                method.fit(problem.model, problem.calibrations[seed])
            if hasattr(method, "removed_layers"):
                rows.append(measured(problem, seed, masks_of(method, problem.n_layers, max_remove)))
            else:
                rows.append(narrowed(problem, seed, method, max_remove))
            masks.append(spent.masks)
            # Methods that read hidden states or gradients play no game; they count their runs themselves.
            runs.append(spent.layer_runs or method.diagnostics_["layer_runs"])
        calibration, test = (np.array(part) for part in zip(*rows))
        results[name] = Result(calibration, test, float(np.mean(masks)), float(np.mean(runs)))
        print(f"{problem.name}: {name}", file=sys.stderr, flush=True)
    return results


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
    calibration, test = (np.array(part) for part in zip(*rows))
    game = LayerGame(problem.model, problem.calibrations[0])
    return Result(calibration, test, 2**problem.n_layers, game.plan(all_masks(problem.n_layers)).layer_runs)


def paper_layer_runs(problem: Problem) -> int:
    """What the paper's 8,000 masks cost with shared prefixes; planned, not run."""
    masks = StratifiedSampler(replace=True).sample(problem.n_layers, PAPER_MASKS, np.random.default_rng(0))
    return LayerGame(problem.model, problem.calibrations[0]).plan(masks).layer_runs


def excess(values: FloatArray, best: FloatArray) -> FloatArray:
    """Percent above the best."""
    return 100 * (values / best - 1)


def percent(value: float) -> str:
    if not np.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def regret_table(results: dict[str, Result], tokens: int) -> str:
    # What narrows the model chooses no set, and fits the calibration text better than any set can.
    by_sets = [result for name, result in results.items() if name != SLICE_GPT]
    best_calibration = np.nanmin([result.calibration for result in by_sets], axis=0)
    best_test = np.nanmin([result.test for result in by_sets], axis=0)
    rows = []
    for name, result in results.items():
        calibration, test = excess(result.calibration, best_calibration), excess(result.test, best_test)
        rows.append(
            [
                name + ("" if np.isfinite(result.test).all() else " (not every n)"),
                f"{percent(np.nanmean(calibration))} ({percent(np.nanmax(calibration))})",
                f"{percent(np.nanmean(test))} ({percent(np.nanmax(test))})",
                f"{result.masks:,.0f}",
                f"{result.layer_runs:,.0f}",
                f"{result.layer_runs * tokens / 1e6:,.2f}",
            ]
        )
    header = ["method", "calibration regret %", "test excess %", "masks", "layer runs", "layer runs x tokens, 10^6"]
    return table(header, rows)


def depth_table(results: dict[str, Result], max_remove: int) -> str:
    rows = [
        [name, *(percent(value) for value in result.test.mean(axis=0))] for name, result in results.items()
    ]
    return table(["removed", *(str(n) for n in range(1, max_remove + 1))], rows)


def reach(problem: Problem, results: dict[str, Result], paper_runs: int) -> list[str]:
    """The targets that were set beforehand, each with what was measured."""
    default = results[DEFAULT]
    lines = []
    if OPTIMUM in results:
        regret = float(excess(default.calibration, results[OPTIMUM].calibration).mean())
        lines.append(f"calibration regret of the default against the optimum: {regret:.3f}% (target 0.1%)")
    here, there = paper_runs / default.layer_runs, PAPER_MASKS * problem.n_layers / default.layer_runs
    lines.append(
        f"its cost in layer runs x tokens against the paper's {PAPER_MASKS:,} masks: 1/{here:.0f} of what they cost "
        f"here, with shared prefixes and each mask once; 1/{there:,.0f} of what they cost in the authors' code, which "
        "runs every layer for every mask (target 1/20)"
    )
    others = {k: r for k, r in results.items() if not k.startswith("layershap") and k not in (OPTIMUM, EXACT)}
    mean_default = default.test.mean(axis=0)
    worst, who, where, averages = -np.inf, "", 0, []
    for name, result in others.items():
        mean_other = result.test.mean(axis=0)
        possible = np.isfinite(mean_other)
        behind = np.where(possible, excess(mean_default, mean_other), -np.inf)
        if behind.max() > worst:
            worst, who, where = float(behind.max()), name, int(behind.argmax()) + 1
        averages.append((float(excess(mean_default, mean_other)[possible].mean()), name))
    lines.append(
        f"test perplexity of the default over any baseline's at the same n, at worst: {worst:+.2f}% ({who}, {where} "
        "removed; target +0.5%)"
    )
    nearest, name = max(averages)
    lines.append(f"averaged over n, over the nearest baseline's: {nearest:+.2f}% ({name}; target below 0)")
    half = problem.n_layers // 2
    gain = float(excess(mean_default, results[GREEDY].test.mean(axis=0))[half - 1])
    lines.append(
        f"half the layers removed, over greedy's: {gain:+.2f}% with {default.masks:.0f} masks against greedy's "
        f"{results[GREEDY].masks:.0f} (target -3% from 24 layers on, at no more masks)"
    )
    of_paper = [name for name in results if name.startswith("the paper")][-1]
    reference = OPTIMUM if OPTIMUM in results else DEFAULT
    above = {k: float(excess(results[k].test, results[reference].test).mean()) for k in (of_paper, SHORT_GPT, ONE_SHOT)}
    figures = ", ".join(f"{k} {percent(v)}%" for k, v in above.items())
    lines.append(f"the paper's ordering: {figures} above {reference} on test text")
    return lines


def report(name: str, quick: bool, full: bool) -> str:
    problem = PROBLEMS[name]()
    seeds = SEEDS[:1] if quick else SEEDS
    max_remove = 2 * problem.n_layers // 3
    affordable = full or problem.enumerable
    paper_masks = (512,) if not affordable else (512, PAPER_MASKS) if quick else (512, 2000, PAPER_MASKS)
    results = run(problem, max_remove, paper_masks, seeds)
    if problem.enumerable:
        results[EXACT] = exact_ranking(problem, max_remove, seeds)
    tokens = SEQUENCES * LENGTH
    dense = held_out_perplexities(problem, np.ones((1, problem.n_layers), dtype=bool))[0]
    best = "the optimum" if OPTIMUM in results else "the best set that any method found"
    parts = [
        f"### {problem.title}",
        f"Test perplexity with all layers {dense:.1f}; n from 1 to {max_remove}; {len(seeds)} calibration sets. "
        f"Regret: calibration perplexity over that of {best} at the same n and on the same text, minus one; excess: "
        "test perplexity over the lowest of all sets here. Means over n and calibration sets, worst in brackets.",
        regret_table(results, tokens),
        "Test perplexity by number of layers removed (means over the calibration sets):",
        depth_table(results, max_remove),
        "Against the targets:",
        "\n".join(f"- {line}" for line in reach(problem, results, paper_layer_runs(problem))),
    ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--quick", action="store_true", help="one calibration set instead of three")
    parser.add_argument(
        "--full", action="store_true", help="the paper's 8,000 masks also where 2^L is more than that (hours)"
    )
    parser.add_argument("--write", type=Path, help=f"also put the tables between {BEGIN} and {END} in this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    command = " ".join(["python", "benchmarks/selection.py", *sys.argv[1:]])
    parts = [
        f"`{command}`, {time.strftime('%Y-%m-%d')}, torch {torch.__version__}, "
        f"{platform.processor() or platform.machine()}"
    ]
    print(parts[0], flush=True)
    for name in args.models:
        try:
            parts.append(report(name, args.quick, args.full))
        except FileNotFoundError as error:
            parts.append(f"### {name}\n\nSkipped: {error}.")
        print("\n" + parts[-1], flush=True)
    if args.write:
        before, rest = args.write.read_text(encoding="utf-8").split(BEGIN)
        tables = "\n\n".join([BEGIN, *parts, END])
        args.write.write_text(before + tables + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()

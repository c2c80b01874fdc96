"""Selection under compensation against compensation after selection: the same search, its game with and without.

    python -m benchmarks.compensation.selection run --model gpt2 --draws 0
    python -m benchmarks.compensation.selection run --model benchmarks/models/llama32 --draws 0
        --sequences 32 --greedy
    python -m benchmarks.compensation.selection run --model smollm2 --draws 0 --sequences 32 --greedy
    python -m benchmarks.compensation.selection table --write benchmarks/results/compensation_selection.md

In the game under `Rescale` a skipped layer multiplies the hidden states by its ratio, so that a coalition is scored as
it would be after `Rescale`. Both sets are then compensated alike, and tested on other text of the calibration's kind
and on another kind.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import CACHE, markdown, perplexity, print_or_write, provenance
from benchmarks.records import append, made_on, read
from benchmarks.selection.generalisation import problem_of
from layershap import Greedy, LayerPruner, find_layers, remove_layers
from layershap.compensation import LinearRefit, Rescale
from layershap.selection.greedy import greedy_masks

RECORD = CACHE / "compensation_selection.jsonl"
GAMES = {"selection, then compensation": False, "selection under Rescale": True}


def run(options: argparse.Namespace) -> None:
    problem = problem_of(options.model)
    model, stack = problem.model, find_layers(problem.model)
    done = {(row["model"], row["draw"], row["game"]) for row in read(RECORD)}
    for draw in options.draws:
        calibration = problem.calibration(draw, options.sequences)
        for game, in_game in GAMES.items():
            if (problem.name, draw, game) in done:
                continue
            deepest = max(problem.depths)
            greedy: dict[str, Any] = {"selector": Greedy(), "n_masks": greedy_masks(len(stack), deepest)}
            start = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pruner = LayerPruner(
                    max_remove=deepest,
                    random_state=0,
                    compensation=Rescale(in_game=in_game),
                    ledger=CACHE / f"compensation_selection_{problem.name}_{draw}_{in_game}.jsonl",
                    **(greedy if options.greedy else {}),
                ).fit(model, calibration)
                seconds = time.process_time() - start
                sets = {n: pruner.removed_layers(n) for n in problem.depths}
                tested: dict[str, Any] = {}
                for n, layers in sets.items():
                    for name, compensation in (("Rescale", Rescale()), ("LinearRefit", LinearRefit())):
                        small = remove_layers(
                            model, layers, stack=stack, check=False, compensation=compensation, calibration=calibration
                        )
                        for kind in ("same", "other"):
                            tested[f"{name}, {kind}, {n}"] = perplexity(small, getattr(problem, kind))
            row = {
                "model": problem.name,
                "draw": draw,
                "game": game,
                "sequences": options.sequences,
                "search": "greedy" if options.greedy else "default",
                "seconds": seconds,
                "sets": sets,
                "tested": tested,
            }
            append(RECORD, row)
            print(json.dumps(row), flush=True)


def table(rows: list[dict[str, Any]]) -> str:
    """Geometric mean perplexities over the draws, by model, text and number of removed layers."""
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        found = [row for row in rows if row["model"] == model]
        numbers = list(found[0]["sets"])
        of_game = {game: [row for row in found if row["game"] == game] for game in GAMES}
        draws = sorted(set.intersection(*({row["draw"] for row in of_draws} for of_draws in of_game.values())))
        lines += [f"### {model}, {found[0]['search']} search on {found[0]['sequences']} sequences, draws {draws}", ""]
        body = []
        for name in ("Rescale", "LinearRefit"):
            for kind in ("same", "other"):
                for game, of_draws in of_game.items():
                    values = [
                        [row["tested"][f"{name}, {kind}, {n}"] for n in numbers]
                        for row in of_draws
                        if row["draw"] in draws
                    ]
                    means = np.exp(np.log(values).mean(axis=0))
                    text = {"same": "the calibration's kind", "other": "another kind"}[kind]
                    body.append([name, text, game, *(f"{value:.1f}" for value in means)])
        lines += [markdown(["compensation", "text", "game", *(f"{n} removed" for n in numbers)], body), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("--model", default="gpt2", help="gpt2, smollm2, or a folder with a checkpoint")
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sequences", type=int, default=128)
    parser.add_argument("--greedy", action="store_true", help="greedy elimination instead of the default search")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, help="a page; between its markers <!-- tables: begin --> and end")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.action == "run":
        run(options)
    else:
        rows = read(RECORD)
        print_or_write(f"{provenance()}\n\n{made_on(rows)}\n\n{table(rows)}", options.write)


if __name__ == "__main__":
    main()

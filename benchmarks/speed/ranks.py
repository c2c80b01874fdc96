"""One process against two that share the masks, in turns on one machine.

    python -m benchmarks.speed.ranks --write benchmarks/results/ranks.md

Each way scores the same masks of SmolLM2 (each layer removed alone, and random sets) on the same text: one process with
one thread, one with two, two with one each (torchrun). A way's seconds are those of its evaluation, the slowest rank's;
opening the game and loading the model are not among them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import MODELS, markdown, print_or_write, provenance, sequences, wikitext_articles

WAYS = {
    "one process, one thread": (1, 1),
    "one process, two threads": (1, 2),
    "two processes, one thread each": (2, 1),
}


def masks_of(n_layers: int, n_masks: int) -> np.ndarray:
    """Each layer removed alone, then random sets of 2 to 12 layers."""
    rng = np.random.default_rng(0)
    masks_ML = np.ones((n_masks, n_layers), dtype=bool)
    for index, mask_L in enumerate(masks_ML):
        removed = [index] if index < n_layers else rng.choice(n_layers, rng.integers(2, 13), replace=False)
        mask_L[removed] = False
    return masks_ML


def evaluate(n_masks: int, n_sequences: int) -> None:
    """What each process of a way runs; the first prints."""
    from layershap import LayerGame
    from layershap.datasets import load_smollm2
    from layershap.ranks.launched import is_first_rank
    from layershap.ranks.together import Ranks

    model, tokenizer = load_smollm2(MODELS / "smollm2")
    text = sequences(wikitext_articles()[0], tokenizer, n_sequences)
    masks_ML = masks_of(model.config.num_hidden_layers, n_masks)
    game = LayerGame(model, text)
    game(masks_ML[:1])  # opens the game: the forward is chosen
    ranks = Ranks.of(model)
    before, start = game.layer_runs, time.perf_counter()
    scores = game(masks_ML)
    own = time.perf_counter() - start
    spent = ranks.together(lambda: own)
    if is_first_rank():
        print(json.dumps({"seconds": max(spent), "layer_runs": game.layer_runs - before, "scores": scores.tolist()}))


def timed(rounds: int, n_masks: int, n_sequences: int) -> dict[str, list[dict[str, Any]]]:
    """What each way printed, in turns."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, (n_processes, n_threads) in WAYS.items():
            launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes), "-m"]
            module = [*(launcher if n_processes > 1 else []), "benchmarks.speed.ranks", "--evaluate"]
            command = [sys.executable, "-m", *module, "--masks", str(n_masks), "--sequences", str(n_sequences)]
            environment = {**os.environ, "OMP_NUM_THREADS": str(n_threads)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    first, *_ = found.values()
    rows = []
    for name, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        same = all(run["scores"] == first[0]["scores"] for run in runs)
        rows.append(
            [
                name,
                f"{np.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})",
                f"{np.median([run['seconds'] for run in first]) / np.median(seconds):.2f}",
                f"{runs[0]['layer_runs']:,}",
                "yes" if same else "no",
            ]
        )
    return markdown(["", "seconds, median (range)", "times as fast", "layer runs", "the same bits"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=int, default=120)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--evaluate", action="store_true", help="one process's work")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    if options.evaluate:
        evaluate(options.masks, options.sequences)
        return
    found = timed(options.rounds, options.masks, options.sequences)
    text = (
        f"{options.masks} masks of SmolLM2-135M on {options.sequences} x 128 tokens, bfloat16, {os.cpu_count()} cores"
    )
    print_or_write(f"{provenance()}\n\n{text}:\n\n{table(found)}", options.write)


if __name__ == "__main__":
    main()

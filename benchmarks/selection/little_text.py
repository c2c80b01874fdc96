"""With little calibration text, greedy elimination runs into dead ends: the default against it on 10 sequences.

    python -m benchmarks.selection.little_text [--model llama24] [--sequences 10]

Every set of calibration sequences of `selection.py` is cut into as many sets of so few as it holds. Prints by how much
the default's perplexity, and that of the search with no more masks than greedy, lies over greedy's: on the calibration
text, where neither is ever worse if its path is greedy's, and on test text.

Shapes: N numbers of removed layers, R calibration sets.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.common import CACHE, LENGTH, markdown, provenance
from benchmarks.selection.methods import DEFAULT, GREEDY, GREEDY_MASKS, methods
from benchmarks.selection.oracle import counted, held_out_perplexities, masks_of, perplexities
from benchmarks.selection.problems import PROBLEMS, Problem
from layershap import Calibration, LayerGame, LayerPruner


def cut(problem: Problem, n_sequences: int) -> list[Calibration]:
    """Disjoint calibration sets of so few sequences."""
    parts = [part for text in problem.calibrations for part in text.ids_ST.split(n_sequences)]
    return [Calibration(part, part.clone()) for part in parts if len(part) == n_sequences]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=PROBLEMS, default="llama24")
    parser.add_argument("--sequences", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    problem = PROBLEMS[args.model]()
    n_layers, max_remove = problem.n_layers, problem.max_remove
    made = methods(n_layers, max_remove, (), llama=False)
    names, texts = (GREEDY, DEFAULT, GREEDY_MASKS), cut(problem, args.sequences)
    found = np.empty((len(names), len(texts), 2, max_remove))
    n_masks = np.empty((len(names), len(texts)))
    for index, text in enumerate(texts):
        ledger = CACHE / f"{problem.name}_{args.sequences}sequences{index}.jsonl"
        for row, name in enumerate(names):
            with counted() as spent:
                method = made[name](index)
                own = ledger.with_suffix(".parts.jsonl") if isinstance(method, LayerPruner) else ledger
                fitted = method.set_params(ledger=own).fit(problem.model, text)
            masks = masks_of(fitted, n_layers, max_remove)
            with LayerGame(problem.model, text, ledger=ledger) as game:
                found[row, index, 0] = perplexities(game, masks)
            found[row, index, 1] = held_out_perplexities(problem, masks)
            n_masks[row, index] = spent.masks
    print(f"{provenance()}\n\n{problem.title}, {len(texts)} calibration sets of {args.sequences} x {LENGTH} tokens\n")
    over = 100 * (found[1:] / found[0] - 1)
    rows = []
    for method_R, name, count in zip(over, names[1:], n_masks[1:].mean(axis=1)):
        for column, name_of_text in enumerate(("calibration", "test")):
            for statistic, of in (("mean", np.mean), ("lowest", np.min), ("highest", np.max)):
                values = [f"{value:.2f}" for value in of(method_R[:, column], axis=0)]
                rows.append([name, f"{count:,.0f}", f"{name_of_text}, {statistic}", *values])
    header = ["over greedy, %", f"masks (greedy: {n_masks[0].mean():,.0f})", "text"]
    print(markdown([*header, *(str(n) for n in range(1, max_remove + 1))], rows))


if __name__ == "__main__":
    main()

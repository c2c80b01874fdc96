"""How much of the loss on test text is the calibration text's: the optimum on 32, 64 and 96 sequences, all masks known.

    python -m benchmarks.selection.calibration_noise

Reads the ledgers that `selection.py --models gpt2` fills (and fills them if need be, minutes a set).
The optimum on each set of sequences is what no search can beat; its excess on test text is the calibration text's: on
other pages of the same novel its noise, on other novels also that they are not the same text.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from benchmarks.common import LENGTH, markdown, provenance
from benchmarks.selection.oracle import all_calibration_perplexities, held_out_perplexities, other_perplexities
from benchmarks.selection.problems import SEEDS, SEQUENCES, gpt2
from layershap.protocols import MaskArray
from layershap.shapley import all_masks

MAX_REMOVE = 8


def main() -> None:
    problem = gpt2()
    # Every set has as many tokens, so mean logarithms of perplexities pool.
    nll = np.array([np.log(all_calibration_perplexities(problem, seed)) for seed in SEEDS])
    masks = all_masks(problem.n_layers)
    removed = (~masks).sum(axis=1)
    chosen: dict[int, list[MaskArray]] = {}
    for count in range(1, len(SEEDS) + 1):
        for seeds in combinations(SEEDS, count):
            pooled = nll[list(seeds)].mean(axis=0)
            best = [np.flatnonzero(removed == n)[np.argmin(pooled[removed == n])] for n in range(1, MAX_REMOVE + 1)]
            chosen.setdefault(count, []).append(masks[best])
    sizes = [str(n) for n in range(1, MAX_REMOVE + 1)]
    print(f"{provenance()}\n")
    for text, measure in (("the same novel", held_out_perplexities), ("other novels", other_perplexities)):
        found = {count: np.array([measure(problem, best) for best in sets]) for count, sets in chosen.items()}
        lowest = np.min([values.min(axis=0) for values in found.values()], axis=0)
        rows = []
        for count, values in found.items():
            above = (values / lowest - 1) * 100
            per_size = [f"{value:.1f}" for value in values.mean(axis=0)]
            summary = f"{above.mean():.2f} ({above.max():.2f})"
            rows.append([f"{count * SEQUENCES} x {LENGTH}", str(len(values)), summary, *per_size])
        print(markdown(["calibration tokens", "sets", f"excess on {text} %, mean (worst)", *sizes], rows) + "\n")


if __name__ == "__main__":
    main()

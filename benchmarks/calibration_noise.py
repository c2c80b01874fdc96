"""How much of the loss on test text is the calibration text's: the optimum on 10, 20 and 30 sequences, all masks known.

    python benchmarks/calibration_noise.py

Reads the ledgers that `selection.py --models gpt2` fills (and fills them if need be, minutes a set).
The optimum on each set of sequences is what no search can beat; its excess on test text is the calibration text's.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from common import markdown, provenance
from oracle import all_calibration_perplexities, held_out_perplexities
from problems import SEEDS, gpt2

from layershap.shapley import all_masks

MAX_REMOVE = 8


def main() -> None:
    problem = gpt2()
    # Every set has as many tokens, so mean logarithms of perplexities pool.
    nll = np.array([np.log(all_calibration_perplexities(problem, seed)) for seed in SEEDS])
    masks = all_masks(problem.n_layers)
    removed = (~masks).sum(axis=1)
    test = []
    for count in range(1, len(SEEDS) + 1):
        for seeds in combinations(SEEDS, count):
            pooled = nll[list(seeds)].mean(axis=0)
            best = [np.flatnonzero(removed == n)[np.argmin(pooled[removed == n])] for n in range(1, MAX_REMOVE + 1)]
            test.append((count, held_out_perplexities(problem, masks[best])))
    best_test = np.min([perplexities for _, perplexities in test], axis=0)
    rows = []
    for count in range(1, len(SEEDS) + 1):
        found = np.array([perplexities for pooled, perplexities in test if pooled == count])
        excess = (found / best_test - 1) * 100
        per_size = [f"{value:.1f}" for value in found.mean(axis=0)]
        rows.append([f"{count}0 x 128", str(len(found)), f"{excess.mean():.2f} ({excess.max():.2f})", *per_size])
    print(f"{provenance()}\n")
    sizes = [str(n) for n in range(1, MAX_REMOVE + 1)]
    print(markdown(["calibration tokens", "sets", "test excess %, mean (worst)", *sizes], rows))


if __name__ == "__main__":
    main()

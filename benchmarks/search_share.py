"""On how much of the text should a search look? The default and `search_sequences` against greedy on all of it.

    python benchmarks/search_share.py [--model llama32] [--seeds 0 1 2] [--sequences 32 64]

The calibration sets of 128 sequences of `selection.py`. Prints by how much the default's test perplexity lies over
that of greedy on all 128, and what both cost.

Shapes: N numbers of removed layers, R calibration sets.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from common import markdown, provenance
from methods import DEFAULT, GREEDY, methods
from oracle import counted, held_out_perplexities, ledger_of
from problems import MORE_SEQUENCES, PROBLEMS, SEEDS, SEQUENCES
from selection import masks_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=PROBLEMS, default="llama32")
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--sequences", type=int, nargs="+", default=[SEQUENCES, 2 * SEQUENCES])
    args = parser.parse_args()
    torch.set_num_threads(1)
    problem = PROBLEMS[args.model]()
    n_layers, max_remove = problem.n_layers, problem.max_remove
    made = methods(n_layers, max_remove, (), llama=False)
    found: dict[str, list[np.ndarray]] = {}
    cost: dict[str, list[float]] = {}
    for seed in args.seeds:
        greedy = made[GREEDY](seed).set_params(ledger=ledger_of(problem, seed, "more"))
        fits = {GREEDY: greedy}
        fits["search on all"] = made[DEFAULT](seed).set_params(ledger=ledger_of(problem, seed, "more"))
        for count in args.sequences:
            ledger = ledger_of(problem, seed, f"more_searched_{count}sequences")
            settings = {"ledger": ledger, "search_sequences": count}
            fits[f"search on {count} sequences"] = made[DEFAULT](seed).set_params(**settings)
        for name, method in fits.items():
            with counted() as spent:
                method.fit(problem.model, problem.more[seed])
            masks = masks_of(method, n_layers, max_remove)
            found.setdefault(name, []).append(held_out_perplexities(problem, masks))
            cost.setdefault(name, []).append(spent.tokens / 1e6)
    print(f"{provenance()}\n\n{problem.title}, calibration sets {args.seeds} of {MORE_SEQUENCES} sequences\n")
    rows = []
    for name, values in found.items():
        over_RN = 100 * (np.array(values) / np.array(found[GREEDY]) - 1)
        per_size = [f"{value:.2f}" for value in over_RN.mean(axis=0)]
        rows.append([name, f"{np.mean(cost[name]):.2f}", f"{over_RN.mean():.2f} ({over_RN.max():.2f})", *per_size])
    header = ["over greedy on all, test %", "layer runs x tokens, 10^6", "mean (worst)"]
    print(markdown([*header, *(str(n) for n in range(1, max_remove + 1))], rows))


if __name__ == "__main__":
    main()

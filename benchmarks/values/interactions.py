"""Are the interactions right? Those of a fit's surrogate against all coalitions of a model.

    python -m benchmarks.values.interactions --write benchmarks/results/interactions.md

On the stored evaluations of `benchmarks.values.values`, of the models that are enumerated.

Shapes: F free players, M masks.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from benchmarks.common import markdown, print_table
from benchmarks.values.values import PER_PLAYER, SEEDS, Stored, load, stored_names
from layershap import HammingProcess
from layershap.protocols import FloatArray


def enumerated(stored: Stored) -> FloatArray:
    """Interactions [F * (F - 1) / 2] over the values' sizes: v(both) - v(one) - v(other) + v(neither), in the company
    of the other players of all masks of these sizes, averaged over the sizes.
    """
    found = []
    for pair in combinations(range(stored.masks.shape[1]), 2):
        of_sizes = []
        for size in stored.strata:
            masks = stored.masks[stored.masks.sum(axis=1) == size]
            total = np.zeros(len(masks))
            for kept, sign in (((True, True), 1), ((True, False), -1), ((False, True), -1), ((False, False), 1)):
                changed = masks.copy()
                changed[:, pair] = kept
                total += sign * stored.evaluate(changed)
            of_sizes.append(total.mean())
        found.append(np.mean(of_sizes))
    return np.array(found)


def table() -> str:
    rows = []
    for stored in map(load, stored_names()):
        n_players = stored.masks.shape[1]
        if not stored.enumerated or n_players < 4:
            continue
        truth = enumerated(stored)
        pairs = np.triu_indices(n_players, 1)
        for label, factor in (("**default**", 1), ("twice as many", 2)):
            found = []
            for seed in range(SEEDS):
                drawn = stored.drawn(seed, factor * PER_PLAYER * n_players)
                process = HammingProcess().fit(stored.masks[drawn], stored.scores[drawn])
                found.append(process.interaction_values(stored.strata)[pairs])
            off = np.array(found) - truth
            rows.append(
                [
                    stored.title,
                    label,
                    f"{np.sqrt((truth**2).mean()):.4f}",
                    f"{np.sqrt((off**2).mean()):.4f}",
                    f"{np.mean([np.corrcoef(seed, truth)[0, 1] for seed in found]):.3f}",
                    f"{100 * (np.sign(found) != np.sign(truth)).mean():.1f}",
                ]
            )
    header = ["", "masks", "RMS of the truth", "RMS error", "correlation", "wrong signs, %"]
    return f"{SEEDS} seeds.\n\n{markdown(header, rows)}"


def main() -> None:
    print_table(__doc__, table)


if __name__ == "__main__":
    main()

"""What the values of models are compared with that are too deep to enumerate: is that the truth?

    python -m benchmarks.values.truth --write benchmarks/results/values_truth.md

The truth in `benchmarks.values.values` is the default's estimator on all stored masks, ten times as many as a fit
draws. Here it is held against plain Monte Carlo from the same masks, without a surrogate.
"""

from __future__ import annotations

import numpy as np

from benchmarks.common import markdown, print_table
from benchmarks.values.values import load, stored_names
from layershap.shapley import SampledMasks


def table() -> str:
    rows = []
    for stored in map(load, stored_names()):
        if stored.enumerated:
            continue
        truth, error = stored.truth()
        masks = SampledMasks(stored.masks, stored.settings.semivalue(stored.masks.shape[1]))
        plain, plain_errors = masks.values(stored.scores), masks.standard_errors(stored.scores)
        rows.append(
            [
                stored.title,
                f"{len(stored.scores):,}",
                f"{error:.4f}",
                f"{np.sqrt((plain_errors**2).mean()):.4f}",
                f"{np.sqrt(((plain - truth) ** 2).mean()):.4f}",
                f"{np.abs((plain - truth) / plain_errors).max():.1f}",
            ]
        )
    header = ["", "masks", "error stated", "error of plain Monte Carlo", "RMS difference", "largest, in errors"]
    return markdown(header, rows)


def main() -> None:
    print_table(__doc__, table)


if __name__ == "__main__":
    main()

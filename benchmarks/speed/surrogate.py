"""From 8,000 evaluated masks of 32 layers to values: the paper's network and the default, on synthetic scores.

    python -m benchmarks.speed.surrogate

The paper's code asks its network row by row: 80,000 masks x 32 layers x 2. Here they are a few batched calls.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks.common import markdown, provenance
from layershap import PairwiseRidge, PaperMLP, StratifiedSampler
from layershap.fitting.values import ValueSettings, surrogate_values
from layershap.samplers import strata_sizes

N_LAYERS, N_MASKS, N_MARGINALS = 32, 8000, 80_000


def main() -> None:
    rng = np.random.default_rng(0)
    masks = StratifiedSampler(replace=True).sample(N_LAYERS, N_MASKS, rng)
    prices = rng.exponential(0.05, N_LAYERS)
    scores = np.exp(-((~masks) @ prices))
    settings = ValueSettings(tuple(strata_sizes(None, N_LAYERS)), N_MARGINALS, unbiased=False)
    rows = []
    for surrogate in (PaperMLP(random_state=0), PairwiseRidge()):
        start = time.perf_counter()
        surrogate.fit(masks, scores)
        fitted = time.perf_counter()
        surrogate_values(surrogate, N_LAYERS, settings, rng)
        done = time.perf_counter()
        rows.append([type(surrogate).__name__] + [f"{s:.1f}" for s in (fitted - start, done - fitted, done - start)])
    network = PaperMLP(random_state=0, epochs=1).fit(masks, scores)
    start = time.perf_counter()
    for mask in masks[:1000]:
        network.predict(mask[None])
    one_by_one = (time.perf_counter() - start) / 1000 * N_MARGINALS * N_LAYERS * 2
    print(f"{provenance()}\n")
    header = [f"{N_MASKS:,} masks, L={N_LAYERS}", "fit, s", f"values ({N_MARGINALS:,} masks), s", "both, s"]
    print(markdown(header, rows))
    print(f"\nThe same network asked row by row, extrapolated from 1,000 calls: {one_by_one:,.0f} s for the values.")


if __name__ == "__main__":
    main()

"""Are the values as sure of their text as they say? The same masks on many sets of sequences.

    python -m benchmarks.values.text_errors collect     # evaluates; some minutes
    python -m benchmarks.values.text_errors table --write benchmarks/results/values_text.md

The masks that a default fit draws on the bundled GPT-2, scored on 384 sequences of the novel that it is calibrated on.
The values on each set of 16 sequences, as many as a default fit reads for them, are held against those on all: the
masks are the same, so that what is left is the text's.

Shapes: M masks, S sequences, F free players, B resamples.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.common import CACHE, DATA, markdown, print_or_write, provenance, sequences
from benchmarks.values.values import PER_PLAYER, load
from layershap.fitting.contributions import N_RESAMPLES
from layershap.fitting.values import ValueFit, fit_values
from layershap.masks import over_layers
from layershap.protocols import FloatArray, MaskArray
from layershap.surrogates import HammingProcess

STORED = DATA / "values_text_gpt2.npz"
SEQUENCES = 384


def drawn() -> MaskArray:
    """The masks over the free players [M, F] that a default fit draws: the whole model first."""
    stored = load("gpt2")
    rows = stored.drawn(0, PER_PLAYER * len(stored.free))
    masks = stored.masks[rows]
    return masks[np.argsort(~masks.all(axis=1), kind="stable")]


def collect() -> None:
    """Evaluate and store the NLL [M, S] of the masks on every sequence."""
    from layershap import LayerGame
    from layershap.datasets import load_calibration_text, load_tiny_gpt2

    model, tokenizer = load_tiny_gpt2()
    free = np.isin(np.arange(model.config.n_layer), load("gpt2").free)
    calibration = sequences(load_calibration_text(), tokenizer, SEQUENCES)
    with LayerGame(model, calibration, ledger=CACHE / "values_text_gpt2.jsonl") as game:
        found = game.statistics(over_layers(drawn(), free))
    np.savez_compressed(STORED, nll=found.sums["nll"].astype(np.float32), counts=found.counts)
    print(f"{found.sums['nll'].shape[0]} masks on {len(found.counts)} sequences")


def scores(nll_MS: FloatArray, counts_S: FloatArray, rows: np.ndarray) -> FloatArray:
    """PPL_orig / PPL of the masks [M] on some sequences; the first mask is the whole model."""
    mean_M = nll_MS[:, rows].sum(axis=1) / counts_S[rows].sum()
    return np.exp(mean_M[0] - mean_M)


def fitted(nll_MS: FloatArray, counts_S: FloatArray, rows: np.ndarray) -> ValueFit:
    """The values on some sequences, with the errors that a fit states."""
    rng = np.random.default_rng(0)
    resampled = [scores(nll_MS, counts_S, rng.choice(rows, len(rows))) for _ in range(N_RESAMPLES)]
    return fit_values(
        HammingProcess(),
        drawn(),
        scores(nll_MS, counts_S, rows),
        load("gpt2").settings,
        np.random.default_rng(0),
        resampled_BM=np.array(resampled),
    )


def coverage(n_sequences: int) -> tuple[FloatArray, FloatArray]:
    """Differences to the values on all sequences, and the errors by the text that were stated [sets, F]."""
    with np.load(STORED) as data:
        nll_MS, counts_S = data["nll"].astype(np.float64), data["counts"].astype(np.float64)
    order = np.random.default_rng(0).permutation(len(counts_S))
    truth = fitted(nll_MS, counts_S, order).values
    sets = order[: len(order) // n_sequences * n_sequences].reshape(-1, n_sequences)
    found = [fitted(nll_MS, counts_S, rows) for rows in sets]
    return np.array([fit.values for fit in found]) - truth, np.array([fit.calibration_errors for fit in found])


def table() -> str:
    rows = []
    for n_sequences in (8, 16, 32):
        off, stated = coverage(n_sequences)
        rows.append(
            [
                str(n_sequences),
                str(len(off)),
                f"{np.sqrt((off**2).mean()):.4f}",
                f"{np.sqrt((stated**2).mean()):.4f}",
                f"{100 * (np.abs(off) <= stated).mean():.0f}",
                f"{100 * (np.abs(off) <= 2 * stated).mean():.1f}",
            ]
        )
    return markdown(["sequences", "sets of them", "RMS error", "stated", "within 1 SE, %", "within 2 SE, %"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["collect", "table"])
    parser.add_argument("--write", type=Path, help="a page; between its markers <!-- tables: begin --> and end")
    options = parser.parse_args()
    if options.action == "collect":
        collect()
    else:
        print_or_write(f"{provenance()}\n\n{table()}", options.write)


if __name__ == "__main__":
    main()

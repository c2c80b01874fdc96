"""Do masks drawn in families that share a long prefix buy more? Error of the values at equal layer runs.

    python benchmarks/prefix_sampling.py [--ledger FILE] [--llama FOLDER]

A family begins with a stratified mask and redraws what follows its first l layers, among the masks of its stratum with
the same prefix: each mask is still uniform in its stratum, and a family pays for its prefix once. The games: the
bundled 12-layer GPT-2, all of whose 4,096 coalitions are evaluated (a few minutes; the ledger keeps them); a synthetic
one of 32 layers with pairwise interactions; and, if given, the 24-layer model of `scripts/train_benchmark_models.py`.
The error is that of the pairwise ridge's values against the paper's marginal contributions over the same strata: exact
for the first game, from 200,000 masks for the second, and for the third the ridge's own from 2,000 other masks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from common import markdown, provenance
from transformers import AutoModelForCausalLM, AutoTokenizer

from layershap import Calibration, LayerGame, PairwiseRidge
from layershap.datasets import load_calibration_text, load_tiny_gpt2
from layershap.forward.plan import make_sweep
from layershap.masks import distinct
from layershap.protocols import FloatArray, Game, MaskArray
from layershap.samplers import strata_sizes
from layershap.shapley import all_masks, sample_strata, stratified_marginals


def families(
    n_layers: int, sizes: list[int], count: int, prefix: int, size: int, rng: np.random.Generator
) -> MaskArray:
    """Masks [count, L] in families of `size` that share their first `prefix` layers."""
    masks = np.repeat(sample_strata(n_layers, sizes, -(-count // size), rng), size, axis=0)
    for index in range(len(masks)):
        if index % size:
            kept = int(masks[index, prefix:].sum())
            masks[index, prefix:] = False
            masks[index, prefix + rng.permutation(n_layers - prefix)[:kept]] = True
    return masks[:count]


def affordable(masks: MaskArray, layer_runs: int) -> MaskArray:
    """As many of the first masks as so many layer runs pay for."""
    low, high = 1, len(masks)
    while low < high:
        middle = (low + high + 1) // 2
        if make_sweep(distinct(masks[:middle])).layer_runs <= layer_runs:
            low = middle
        else:
            high = middle - 1
    return masks[:low]


def compare(
    name: str,
    game: Game,
    n_layers: int,
    truth: FloatArray,
    budgets: tuple[int, ...],
    repetitions: int = 40,
    family_sizes: tuple[int, ...] = (2, 4),
) -> list[list[str]]:
    sizes = strata_sizes(None, n_layers)
    draws: dict[str, Callable[[np.random.Generator], MaskArray]] = {
        "independent": lambda rng: sample_strata(n_layers, sizes, 4000, rng)
    }
    for prefix in (n_layers // 4, n_layers // 2, 2 * n_layers // 3):
        for size in family_sizes:
            draws[f"families of {size}, prefix {prefix}"] = lambda rng, prefix=prefix, size=size: families(
                n_layers, sizes, 4000, prefix, size, rng
            )
    rows = []
    for budget in budgets:
        for label, draw in draws.items():
            errors, counts = [], []
            for seed in range(repetitions):
                masks = affordable(draw(np.random.default_rng(seed)), budget)
                values = PairwiseRidge().fit(masks, game(masks)).shapley_values(sizes)
                errors.append(float(np.sqrt(np.mean((values - truth) ** 2))))
                counts.append(len(distinct(masks)))
            error = f"{np.mean(errors):.5f} ± {np.std(errors) / np.sqrt(repetitions):.5f}"
            rows.append([name, str(budget), label, f"{np.mean(counts):.0f}", error])
    return rows


def bundled(ledger: str | None) -> tuple[Game, FloatArray]:
    model, tokenizer = load_tiny_gpt2()
    calibration = Calibration.from_texts(load_calibration_text(), tokenizer)
    with LayerGame(model, calibration, ledger=ledger) as game:
        scores = game(all_masks(12))

    def lookup(masks: MaskArray) -> FloatArray:
        return scores[masks @ (1 << np.arange(12))]

    # Every mask of the strata once is an exact average.
    sizes = strata_sizes(None, 12)
    truth = np.zeros(12)
    for size in sizes:
        masks = all_masks(12)[all_masks(12).sum(axis=1) == size]
        for layer in range(12):
            kept, removed = masks.copy(), masks.copy()
            kept[:, layer], removed[:, layer] = True, False
            truth[layer] += float((lookup(kept) - lookup(removed)).mean()) / len(sizes)
    return lookup, truth


def synthetic(n_layers: int = 32) -> tuple[Game, FloatArray]:
    rng = np.random.default_rng(0)
    prices = rng.gamma(0.5, 0.12, n_layers)
    distance = np.abs(np.subtract.outer(np.arange(n_layers), np.arange(n_layers)))
    interactions = np.triu(rng.normal(0, 0.02, (n_layers, n_layers)) / np.maximum(distance, 1), 1)

    def game(masks: MaskArray) -> FloatArray:
        removed = (~masks).astype(float)
        return np.exp(-np.maximum(removed @ prices + np.einsum("mi,ij,mj->m", removed, interactions, removed), 0))

    sizes = strata_sizes(None, n_layers)
    return game, stratified_marginals(game, n_layers, sizes, 200_000, rng).values


def trained_llama(folder: str) -> tuple[Game, FloatArray]:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    calibration = Calibration.from_texts(load_calibration_text(), AutoTokenizer.from_pretrained(folder))
    game = LayerGame(model, calibration)
    sizes = strata_sizes(None, game.n_players)
    masks = sample_strata(game.n_players, sizes, 2000, np.random.default_rng(10**6))
    return game, PairwiseRidge().fit(masks, game(masks)).shapley_values(sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ledger", help="keeps the 4,096 evaluated masks")
    parser.add_argument("--llama", help="folder of the trained 24-layer model")
    options = parser.parse_args()
    game, truth = bundled(options.ledger)
    rows = compare("bundled GPT-2", game, 12, truth, (300, 600, 1200))
    game, truth = synthetic()
    rows += compare("synthetic, L=32", game, 32, truth, (4000, 8000))
    if options.llama:
        game, truth = trained_llama(options.llama)
        rows += compare("trained Llama, L=24", game, 24, truth, (2000,), repetitions=8, family_sizes=(2,))
    print(f"{provenance()}\n")
    header = ["game", "layer runs", "masks drawn", "distinct masks", "root mean square error of the values"]
    print(markdown(header, rows))


if __name__ == "__main__":
    main()

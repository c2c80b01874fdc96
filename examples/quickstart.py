"""
Prune the bundled model: values, perplexity before and after, a checkpoint
===========================================================================

Fits `LayerPruner` on the bundled 12-layer GPT-2 and text, prints what each layer is worth and what removing layers
costs on held-out books against two simple rules, and writes the pruned checkpoint and one picture.

    python examples/quickstart.py [--out demo_output] [--n-masks 128] [--n-remove 4]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from transformers import AutoModelForCausalLM

from layershap import Calibration, LayerGame, LayerPruner
from layershap.datasets import load_calibration_text, load_evaluation_text, load_tiny_gpt2


def perplexities(game: LayerGame, masks: np.ndarray) -> np.ndarray:
    """Perplexity of each masked model [M] on the game's text."""
    statistics = game.statistics(masks)
    return np.exp(statistics.sums["nll"].sum(axis=1) / statistics.counts.sum())


def mask_without(n_layers: int, removed: list[int]) -> np.ndarray:
    mask = np.ones(n_layers, dtype=bool)
    mask[removed] = False
    return mask


def main(out: Path, n_masks: int = 128, n_remove: int = 4, n_evaluation: int = 32) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_tiny_gpt2()
    calibration = Calibration.from_texts(load_calibration_text(), tokenizer)
    evaluation = Calibration.from_texts(load_evaluation_text(), tokenizer, n_sequences=n_evaluation)
    n_layers = model.config.n_layer

    pruner = LayerPruner(n_masks=n_masks, random_state=0, verbose=1).fit(model, calibration)
    rank = np.argsort(pruner.removal_order_)
    print(f"\nheld-out R2 of the surrogate: {pruner.diagnostics_['held_out_r2']:.3f}\n")
    print("layer   value   +/-     removed")
    for layer, (value, error) in enumerate(zip(pruner.contributions_, pruner.contributions_std_, strict=True)):
        print(f"{layer:5d}  {value:6.3f}  {error:.3f}  {rank[layer] + 1:5d}.")

    # One-shot perplexity removes the layers whose removal alone hurts least.
    with LayerGame(model, calibration) as game:
        one_shot = np.argsort(-game(~np.eye(n_layers, dtype=bool)))
    random_orders = [np.random.default_rng(seed).permutation(n_layers) for seed in range(5)]
    counts = list(range(1, n_layers // 2 + 1))
    with LayerGame(model, evaluation) as game:
        dense = float(perplexities(game, np.ones((1, n_layers), dtype=bool))[0])
        ours, static, chance = [], [], []
        for n in counts:
            sets = [pruner.removed_layers(n), list(one_shot[:n]), *[list(order[:n]) for order in random_orders]]
            found = perplexities(game, np.array([mask_without(n_layers, removed) for removed in sets]))
            ours.append(found[0])
            static.append(found[1])
            chance.append(float(np.median(found[2:])))
    print(f"\nheld-out perplexity (128-token sequences, no BOS), dense model: {dense:.1f}")
    print("removed  layershap  one-shot  random (median of 5)   layers")
    for n, a, b, c in zip(counts, ours, static, chance, strict=True):
        print(f"{n:7d}  {a:9.1f}  {b:8.1f}  {c:20.1f}   {pruner.removed_layers(n)}")

    small = pruner.transform(model, n_remove)
    folder = out / f"tiny_gpt2_minus_{n_remove}"
    small.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    reloaded = AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        ids = evaluation.ids_ST[:2]
        gap = float((reloaded(ids).logits - small(ids).logits).abs().max())
    print(f"\npruned checkpoint: {folder} ({small.num_parameters():,} of {model.num_parameters():,} parameters),")
    print(f"reloaded with AutoModelForCausalLM: largest difference of logits {gap:.1e}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    left.bar(range(n_layers), pruner.contributions_, yerr=pruner.contributions_std_, color="#4477aa", capsize=2)
    left.set(xlabel="layer", ylabel="contribution to PPL_orig / PPL", title="What each layer is worth")
    right.plot([0, *counts], [dense, *ours], "o-", label="layershap")
    right.plot([0, *counts], [dense, *static], "s--", label="one-shot perplexity")
    right.plot([0, *counts], [dense, *chance], "^:", label="random (median of 5)")
    right.set(xlabel="layers removed", ylabel="held-out perplexity", yscale="log", title="What removing layers costs")
    right.legend()
    figure.savefig(out / "quickstart.png", dpi=120)
    plt.close(figure)
    print(f"picture: {out / 'quickstart.png'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("demo_output"))
    parser.add_argument("--n-masks", type=int, default=128)
    parser.add_argument("--n-remove", type=int, default=4)
    arguments = parser.parse_args()
    main(arguments.out, arguments.n_masks, arguments.n_remove)

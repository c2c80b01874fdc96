"""
Prune the bundled model: values, perplexity before and after, a checkpoint, a report
=====================================================================================

Fits `LayerPruner` on the bundled 12-layer GPT-2 and text, prints what each layer is worth and what removing layers
costs on held-out chapters against two simple rules, and writes the pruned checkpoint, a picture and an HTML report.

    python examples/quickstart.py [--out demo_output] [--sequences 128] [--n-remove 4]
"""

# %%
from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from transformers import AutoModelForCausalLM

from layershap import PERPLEXITY_PROTOCOLS, LayerPruner, compare
from layershap.baselines import RandomLayers, ShortenedLlama
from layershap.calibration import mixed_texts
from layershap.datasets import load_calibration_text, load_evaluation_text, load_tiny_gpt2
from layershap.display import ContributionDisplay, DepthCurveDisplay

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path("demo_output"))
parser.add_argument("--sequences", type=int, default=128)
parser.add_argument("--n-remove", type=int, default=4)
arguments = parser.parse_args()
out, n_remove = arguments.out, arguments.n_remove
out.mkdir(parents=True, exist_ok=True)

# %%
# What each layer is worth
# ------------------------
# One fit serves every number of removed layers. The ledger keeps every evaluated mask: an interrupted fit goes on from
# there, and another fit of the same model on the same text pays for none of them again.
model, tokenizer = load_tiny_gpt2()
# Text of the kinds that matter: every other chapter of three novels; the chapters between are for the test.
novels = {"Treasure Island": load_calibration_text(), "two others": load_evaluation_text()}
unseen = [chapter for chapters in novels.values() for chapter in chapters[1::2]]
sources = {name: chapters[::2] for name, chapters in novels.items()}
calibration = mixed_texts(sources, tokenizer, n_sequences=arguments.sequences)
ledger = out / "ledger.jsonl"
for old in out.glob("ledger.jsonl*"):
    old.unlink()
pruner = LayerPruner(max_remove=6, ledger=ledger, random_state=0, verbose=1).fit(model, calibration)

rank = np.argsort(pruner.removal_order_)
print(f"\nheld-out R2 of the surrogate: {pruner.diagnostics_['held_out_r2']:.3f}")
print(f"veto players, without which the model is lost: {pruner.veto_players_.tolist()}\n")
print("layer   value   +/-     rank")
for layer, (value, error) in enumerate(zip(pruner.contributions_, pruner.contributions_std_, strict=True)):
    print(f"{layer:5d}  {value:6.3f}  {error:.3f}  {rank[layer] + 1:4d}.")

# %%
# What removing layers costs, on other chapters
# ---------------------------------------------
# One-shot perplexity removes the layers whose removal alone hurts least, on the same text. All sets are evaluated
# together.
protocol = PERPLEXITY_PROTOCOLS["seq128"]
evaluation = protocol.sequences(unseen, tokenizer, n_sequences=64)
randoms = {f"random {seed}": RandomLayers(random_state=seed) for seed in range(5)}
methods = {"layershap": pruner, "one-shot": ShortenedLlama(), **randoms}
counts = list(range(1, pruner.n_layers_in_ // 2 + 1))
table = compare(model, calibration, evaluation, methods, counts)

chance = np.median([table.curve(name) for name in randoms], axis=0)
print(f"\nheld-out perplexity (protocol {protocol.name}), dense model: {table.dense.perplexity:.1f}")
print("removed  layershap  one-shot  random (median of 5)   layers")
rows = zip(counts, table.curve("layershap"), table.curve("one-shot"), chance, strict=True)
for n, ours, static, random in rows:
    print(f"{n:7d}  {ours:9.1f}  {static:8.1f}  {random:20.1f}   {pruner.removed_layers(n)}")

# %%
# Both in one picture
# -------------------
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.8), layout="constrained")
ContributionDisplay.from_estimator(pruner, n_remove=n_remove).plot(left)
curves = {"layershap": table.curve("layershap"), "one-shot perplexity": table.curve("one-shot"), "random": chance}
DepthCurveDisplay(
    np.array([0, *counts]),
    {name: np.array([table.dense.perplexity, *curve]) for name, curve in curves.items()},
    f"held-out perplexity ({protocol.name})",
    logarithmic=True,
).plot(right)
figure.savefig(out / "quickstart.png", dpi=120)

# %%
# An ordinary, smaller checkpoint
# -------------------------------
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

# %%
# The report
# ----------
# What the fit knows, with perplexity and speed of both models: tables here, a page with pictures, a model card.
report = pruner.report_.measure(model, small, tokenizer, texts=unseen, n_sequences=64)
report.to_html(out / "report.html")
report.to_model_card(n_remove, name=folder.name).save(folder / "README.md")
print(f"\n{report.tables()['outcome_1']}\n\n{report.tables()['speed_1']}")
print(f"\npicture: {out / 'quickstart.png'}\nreport: {out / 'report.html'}")

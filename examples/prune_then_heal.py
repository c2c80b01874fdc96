"""
Make up for removed layers: solved for, trained, or both
========================================================

Removes layers and sets four ways to win back what that costs beside each other, all on the same text: one scalar for
each gap (`Rescale`), a ridge regression of the linear layer before each gap (`LinearRefit`), a low-rank adapter that is
trained and merged (LoRA), and LoRA after LinearRefit. Prints the perplexity of a novel whose other chapters were that
text, the perplexity of books by others, and the seconds that each way took.

    python examples/prune_then_heal.py [FOLDER] [--n-remove 4] [--sequences 128] [--steps 60]

FOLDER is a checkpoint of any causal language model; by default it is the bundled one. Needs the extra ``heal``:
``pip install 'layershap[heal]'``.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Sequence

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from layershap import (
    PERPLEXITY_PROTOCOLS,
    LayerPruner,
    LinearRefit,
    Rescale,
    evaluate,
    remove_layers,
    side_by_side,
)
from layershap.compensation import compensation_record
from layershap.datasets import load_calibration_text, load_evaluation_text, load_tiny_gpt2

HELD_OUT_CHAPTERS = 6


def heal(model: torch.nn.Module, blocks: torch.Tensor, steps: int, rate: float, seed: int = 0) -> torch.nn.Module:
    """Train a LoRA adapter on token blocks [S, T] and merge it into the weights."""
    torch.manual_seed(seed)
    transposed = any(isinstance(part, Conv1D) for part in model.modules())  # GPT-2's linear layers
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", fan_in_fan_out=transposed)
    adapted = get_peft_model(model, config)
    optimiser = torch.optim.AdamW((p for p in adapted.parameters() if p.requires_grad), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=rate, total_steps=steps)
    adapted.train()
    for _ in range(steps):
        batch = blocks[torch.randint(len(blocks), (8,))]
        adapted(batch, labels=batch).loss.backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    return adapted.merge_and_unload().eval()


def main(
    folder: str | None = None,
    *,
    remove: Sequence[int] | None = None,
    n_remove: int = 4,
    sequences: int = 128,
    steps: int = 60,
    rate: float = 2e-3,
    eval_sequences: int = 32,
) -> None:
    if folder is None:
        model, tokenizer = load_tiny_gpt2()
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    chapters = load_calibration_text()
    seq128 = PERPLEXITY_PROTOCOLS["seq128"]
    text = seq128.sequences(chapters[:-HELD_OUT_CHAPTERS], tokenizer, n_sequences=sequences)
    held_out = {"same novel": chapters[-HELD_OUT_CHAPTERS:], "held-out books": load_evaluation_text()}

    if remove is None:
        few = seq128.sequences(chapters[:-HELD_OUT_CHAPTERS], tokenizer, n_sequences=16)
        n_masks = 64 if folder is None else None  # few, as the bundled model's 12 layers and this page's time allow
        pruner = LayerPruner(max_remove=n_remove, n_masks=n_masks, random_state=0).fit(model, few)
        remove = pruner.removed_layers(n_remove)
    print(f"removed layers {sorted(remove)}; each way to make up for them sees {text.ids_ST.numel():,} tokens")

    ways = {"none": None, "Rescale": Rescale(), "LinearRefit": LinearRefit()}
    models, seconds = {}, {}
    for name, compensation in ways.items():
        start = time.perf_counter()
        calibration = None if compensation is None else text
        models[name] = remove_layers(model, remove, check=False, compensation=compensation, calibration=calibration)
        seconds[name] = time.perf_counter() - start
        record = compensation_record(models[name])
        if record is not None:
            loss = f"{record.loss_before:.3f} -> {record.loss_after:.3f}"
            print(f"{name}: changes: {len(record.changes)}; loss on the calibration text held out {loss}")
    for name, before in (("LoRA", "none"), ("LinearRefit + LoRA", "LinearRefit")):
        start = time.perf_counter()
        models[name] = heal(copy.deepcopy(models[before]), text.ids_ST, steps, rate)
        seconds[name] = time.perf_counter() - start + seconds[before]

    scores = {
        name: evaluate(each, tokenizer, texts=held_out, n_sequences=eval_sequences)
        for name, each in {"dense": model, **models}.items()
    }
    print(side_by_side(scores))
    print("seconds: " + ", ".join(f"{name} {found:.1f}" for name, found in seconds.items()))
    for kind in held_out:
        dense, none, *others = (float(found[kind, "perplexity"].value) for found in scores.values())
        shares = (
            f"{name} {(none - each) / (none - dense):.0%}" for name, each in zip([*models][1:], others, strict=True)
        )
        print(f"won back of what pruning cost, {kind}: " + ", ".join(shares))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", metavar="FOLDER")
    parser.add_argument(
        "--remove", type=int, nargs="+", metavar="LAYER", help="these layers, instead of a fit's choice"
    )
    parser.add_argument("--n-remove", type=int, default=4)
    parser.add_argument("--sequences", type=int, default=128, help="of 128 tokens")
    parser.add_argument("--steps", type=int, default=60, help="of LoRA, 8 sequences each")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate of LoRA")
    parser.add_argument("--eval-sequences", type=int, default=32, help="of 128 tokens, of each kind of text")
    main(**vars(parser.parse_args()))

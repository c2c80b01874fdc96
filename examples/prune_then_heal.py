"""
Prune, then heal with LoRA
==========================

Removes layers of the bundled model, trains a low-rank adapter on a text that is neither the evaluation text nor the
model's own training text, merges it, and prints the perplexity of held-out books at each step.

    python examples/prune_then_heal.py [--n-remove 4] [--steps 60]

Needs the extra ``heal``: ``pip install 'layershap[heal]'``.
"""

from __future__ import annotations

import argparse

import torch
from peft import LoraConfig, get_peft_model

from layershap import PERPLEXITY_PROTOCOLS, LayerPruner, evaluate, side_by_side
from layershap.datasets import load_calibration_text, load_evaluation_text, load_tiny_gpt2


def heal(model: torch.nn.Module, blocks: torch.Tensor, steps: int, seed: int = 0) -> torch.nn.Module:
    """Train a LoRA adapter on token blocks [S, T] and merge it into the weights."""
    torch.manual_seed(seed)
    config = LoraConfig(r=16, lora_alpha=32, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
    adapted = get_peft_model(model, config)
    optimiser = torch.optim.AdamW((p for p in adapted.parameters() if p.requires_grad), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=steps)
    adapted.train()
    for step in range(steps):
        batch = blocks[torch.randint(len(blocks), (8,))]
        loss = adapted(batch, labels=batch).loss
        loss.backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        if step % 20 == 0:
            print(f"step {step:3d}  loss {loss.item():.3f}")
    return adapted.merge_and_unload().eval()


def main(n_remove: int = 4, steps: int = 60) -> None:
    model, tokenizer = load_tiny_gpt2()
    text = load_calibration_text()
    seq128 = PERPLEXITY_PROTOCOLS["seq128"]
    held_out = {"texts": {"held-out books": load_evaluation_text()}, "n_sequences": 32}

    pruner = LayerPruner(max_remove=n_remove, n_masks=64, random_state=0).fit(
        model, seq128.sequences(text, tokenizer, n_sequences=4)
    )
    small = pruner.transform(model, n_remove)
    print(f"removed layers {pruner.removed_layers(n_remove)}")
    scores = {"dense": evaluate(model, tokenizer, **held_out), "pruned": evaluate(small, tokenizer, **held_out)}

    healed = heal(small, seq128.sequences(text, tokenizer).ids_ST, steps)
    scores["healed"] = evaluate(healed, tokenizer, **held_out)
    print(side_by_side(scores))
    dense, pruned, after = (float(s["held-out books", "perplexity"].value) for s in scores.values())
    print(f"healing won back {(pruned - after) / (pruned - dense):.0%} of what pruning cost")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--n-remove", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    main(arguments.n_remove, arguments.steps)

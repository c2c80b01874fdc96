"""
State-space and recurrent models
================================

Layers of a Mamba and an RWKV are players like any others. Both are trained here for a minute at most on the bundled
book, byte by byte, so that their layers have something to lose; then layers are valued, removed, and the smaller models
are measured, made to generate, saved and loaded.
"""

# %%
# Two tiny models, trained on the spot
# ------------------------------------
from __future__ import annotations

import sys
import tempfile

import numpy as np
import torch
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM, RwkvConfig, RwkvForCausalLM

from layershap import LayerPruner, inspect, remove_layers
from layershap.datasets import load_calibration_text, load_evaluation_text

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 100
SEQ_LEN, BATCH, LAYERS = 32, 24, 6
sizes = {"vocab_size": 256, "hidden_size": 48, "num_hidden_layers": LAYERS, "use_cache": False}
book = torch.frombuffer(bytearray("\n".join(load_calibration_text()).encode()), dtype=torch.uint8).long()
other = torch.frombuffer(bytearray("\n".join(load_evaluation_text()).encode()), dtype=torch.uint8).long()


def train(model: torch.nn.Module) -> torch.nn.Module:
    """A few steps of next-byte prediction on the first nine tenths of the book."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    model.train()
    for _ in range(steps):
        starts = torch.randint(len(book) * 9 // 10, (BATCH,), generator=generator)
        ids = torch.stack([book[start : start + SEQ_LEN] for start in starts])
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.inference_mode()
def perplexity(model: torch.nn.Module) -> float:
    """Per byte, on a book that neither training nor calibration has seen."""
    ids = other[: 64 * SEQ_LEN].view(64, SEQ_LEN)
    return float(model(input_ids=ids, labels=ids).loss.exp())


torch.manual_seed(0)
models = {
    "mamba": train(MambaForCausalLM(MambaConfig(**sizes, state_size=8))),
    "rwkv": train(RwkvForCausalLM(RwkvConfig(**sizes, attention_hidden_size=48, context_length=2 * SEQ_LEN))),
}
calibration = book[-48 * SEQ_LEN :].view(48, SEQ_LEN)

# %%
# What the layers are worth, and the models without the least valuable
# ---------------------------------------------------------------------
# RWKV's first layer owns the norm of the embeddings: `inspect` says so and `fit` protects it.
for name, model in models.items():
    print(f"\n{name}: {inspect(model)}\n")
    pruner = LayerPruner(n_masks=48, random_state=0).fit(model, calibration)
    print("value of each layer:", np.round(pruner.contributions_, 3))
    print(f"removed  least valuable  most valuable  (perplexity per byte; the whole model's: {perplexity(model):.2f})")
    worst_first = [int(layer) for layer in pruner.removal_order_ if pruner.removable_[layer]]
    for n_remove in range(1, 4):
        small = pruner.transform(model, n_remove=n_remove)
        other_end = remove_layers(model, worst_first[::-1][:n_remove])
        least, most = perplexity(small), perplexity(other_end)
        print(f"{n_remove:7d}  {least:14.2f}  {most:13.2f}  {pruner.removed_layers(n_remove)}")

    prompt = book[-SEQ_LEN:][None]
    text = small.generate(prompt, max_new_tokens=24, do_sample=False, pad_token_id=0)
    with tempfile.TemporaryDirectory() as folder:
        small.save_pretrained(folder)
        again = AutoModelForCausalLM.from_pretrained(folder)
    same = torch.equal(again.generate(prompt, max_new_tokens=24, do_sample=False, pad_token_id=0), text)
    print(f"{name} with {LAYERS - 3} layers, reloaded, continues a sentence as before saving: {same}")

"""How a layer's time per token depends on the tokens of one call: what the default of `batch_tokens` rests on.

python -m benchmarks.speed.token_budget
"""

from __future__ import annotations

import time

import torch
from transformers import LlamaForCausalLM

from benchmarks.common import markdown, provenance, random_llama
from benchmarks.speed.forward import SHAPES, synchronize

SEQUENCE = 128


def microseconds_per_token(model: LlamaForCausalLM, rows: int, repeats: int = 15) -> float:
    """Best of `repeats` calls of one layer."""
    layer = model.model.layers[0]
    weight = layer.mlp.up_proj.weight
    hidden = torch.randn(rows, SEQUENCE, weight.shape[1], dtype=weight.dtype, device=weight.device)
    rotary = model.model.rotary_emb(hidden, torch.arange(SEQUENCE, device=weight.device)[None])
    best = float("inf")
    with torch.inference_mode():
        for _ in range(repeats):
            synchronize()
            start = time.perf_counter()
            layer(hidden, position_embeddings=rotary, attention_mask=None)
            synchronize()
            best = min(best, time.perf_counter() - start)
    return best / (rows * SEQUENCE) * 1e6


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = (1, 2, 5, 10, 20, 40, 80, 160)
    print(f"{provenance()}\n")
    table = []
    for name in ("deep", "wide", *(["7b"] if device == "cuda" else [])):
        shape = {**SHAPES[name], "n_layers": 1}
        model = random_llama(**shape, dtype=torch.bfloat16 if name == "7b" else torch.float32, device=device)
        table.append([f"{name}: D={shape['width']}"] + [f"{microseconds_per_token(model, n):.2f}" for n in rows])
    print(markdown(["microseconds per token", *(f"{n * SEQUENCE:,} tokens" for n in rows)], table))


if __name__ == "__main__":
    main()

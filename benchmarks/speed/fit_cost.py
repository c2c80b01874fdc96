"""What a fit costs on models of published sizes, told by `estimate_cost` on skeletons: no weights, no download, no GPU.

    python -m benchmarks.speed.fit_cost [--models 7b 8b 13b 70b 405b]

The figures that docs/big_models.md explains. The limits that depend on the machine are fixed here, so that every
machine prints the same figures. Seconds are unknown: a skeleton can't be timed.

Shapes: L layers.
"""

from __future__ import annotations

import argparse
from typing import TypedDict

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import markdown, provenance, random_calibration
from layershap import LayerGame, LayerPruner
from layershap.forward.cost import CostEstimate

# Layers, hidden size, inner size, heads, key-value heads, vocabulary: those of LLaMA-2 7B and 13B, Llama-3 8B and 70B,
# Llama-3.1 405B.
SIZES = {
    "7b": (32, 4096, 11008, 32, 32, 32000),
    "8b": (32, 4096, 14336, 32, 8, 128256),
    "13b": (40, 5120, 13824, 40, 40, 32000),
    "70b": (80, 8192, 28672, 64, 8, 128256),
    "405b": (126, 16384, 53248, 128, 8, 128256),
}


class Limits(TypedDict):
    batch_tokens: int
    memory_budget: int


LIMITS: Limits = {"batch_tokens": 16_384, "memory_budget": 8 * 2**30}
"""Tokens per layer call as by default on a GPU; 8 GiB of hidden states."""


def skeleton(
    layers: int, width: int, inner: int, heads: int, key_value_heads: int, vocabulary: int
) -> LlamaForCausalLM:
    """A Llama-style model in bfloat16 on the meta device, which holds no weights."""
    config = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        vocab_size=vocabulary,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config).to(torch.bfloat16).eval()


def estimates(model: LlamaForCausalLM, *, unlimited: bool = True) -> dict[str, CostEstimate]:
    """What is bought -> its cost; with the default that may remove any number of layers, or without."""
    n_layers = model.config.num_hidden_layers
    text, little = (random_calibration(model.config.vocab_size, n_sequences) for n_sequences in (128, 10))
    default = LayerPruner(random_state=0, **LIMITS)
    quarter = LayerPruner(random_state=0, max_remove=n_layers // 4, **LIMITS)
    paper = LayerPruner.paper(random_state=0).set_params(**LIMITS)
    alone = ~np.eye(n_layers, dtype=bool)
    whole = {"default": default.estimate_cost(model, text)} if unlimited else {}
    return whole | {
        f"default, `max_remove={n_layers // 4}`": quarter.estimate_cost(model, text),
        "each layer removed alone (one-shot perplexity)": LayerGame(model, text, **LIMITS).estimate_cost(alone),
        "`LayerPruner.paper()` on 10 sequences": paper.estimate_cost(model, little),
    }


def row(size: str, n_layers: int, what: str, cost: CostEstimate) -> list[str]:
    parts = (cost, *cost.further)
    return [
        size.upper(),
        what,
        f"{cost.n_masks:,}",
        f"{cost.layer_run_tokens / n_layers / 1e6:,.1f}",
        f"{sum(part.flops for part in parts) / 1e15:,.1f}",
        f"{max(part.peak_bytes for part in parts) / 2**30:,.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=SIZES, default=["7b", "8b", "13b", "70b"])
    rows = []
    for size in parser.parse_args().models:
        model = skeleton(*SIZES[size])
        rows += [row(size, model.config.num_hidden_layers, *item) for item in estimates(model).items()]
    header = ["model", "what", "masks", "tokens through the whole model, 10^6", "10^15 FLOP", "states and logits, GiB"]
    print(f"{provenance()}\n\n{markdown(header, rows)}")


if __name__ == "__main__":
    main()

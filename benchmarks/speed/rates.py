"""At what rate masks are evaluated, as a share of what the same machine's plain matrix products reach.

Shapes: M masks, L layers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import LlamaForCausalLM

from benchmarks.common import PeakMemory
from benchmarks.speed.forward import synchronize
from layershap import LayerGame
from layershap.protocols import MaskArray

CALL = 16_384
"""Tokens of one matrix product that the rate of products is measured with; on a CPU an eighth."""


def clock() -> float:
    """Seconds: of the wall on a GPU, of this process on a CPU that other programs share."""
    synchronize()
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def product_rate(model: LlamaForCausalLM, tokens: int, repeats: int = 5) -> float:
    """FLOP/s of plain matrix products with the shapes of one layer's weights, the best of some."""
    weights = [module.weight for module in model.model.layers[0].modules() if isinstance(module, nn.Linear)]
    inputs = [torch.randn(tokens, w.shape[1], dtype=w.dtype, device=w.device) for w in weights]
    outputs = [torch.empty(tokens, len(w), dtype=w.dtype, device=w.device) for w in weights]
    seconds = []
    with torch.inference_mode():
        for _ in range(repeats):
            start = clock()
            for given, weight, out in zip(inputs, weights, outputs, strict=True):
                torch.mm(given, weight.T, out=out)
            seconds.append(clock() - start)
    return sum(2 * tokens * weight.numel() for weight in weights) / min(seconds)


@dataclass(frozen=True)
class Rate:
    """What evaluating masks took.

    Attributes
    ----------
    masks, layer_runs : int
        Evaluated.
    flops : float
        Operations of matrix products and attention, as `estimate_cost` counts them.
    stated_seconds, seconds : float
        What `estimate_cost` told, and what it took.
    stated_mib, mib : float
        States and logits as `estimate_cost` told, and peak memory above what was held before: the latter holds the
        working memory of one layer call too.
    products : float
        FLOP/s of plain matrix products with the shapes of the layers' weights.
    """

    masks: int
    layer_runs: int
    flops: float
    stated_seconds: float
    seconds: float
    stated_mib: float
    mib: float
    products: float

    @property
    def flop_rate(self) -> float:
        return self.flops / self.seconds

    @property
    def share(self) -> float:
        return self.flop_rate / self.products


def evaluation_rate(model: LlamaForCausalLM, game: LayerGame, masks: MaskArray) -> Rate:
    """Evaluate masks that the game hasn't seen; its forward is opened and compared before the clock starts."""
    game(np.ones((1, game.n_players), dtype=bool))
    cost = game.estimate_cost(masks)
    memory = PeakMemory()
    start = clock()
    game(masks)
    seconds = clock() - start
    held = memory.above_baseline()
    products = product_rate(model, CALL if torch.cuda.is_available() else CALL // 8)
    told = cost.seconds if cost.seconds is not None else float("nan")
    return Rate(cost.n_distinct, cost.layer_runs, cost.flops, told, seconds, cost.peak_bytes / 2**20, held, products)


HEADER = ["masks", "layer runs", "seconds", "TFLOP/s", "TFLOP/s of plain products", "share"]
STATED = ["seconds stated", "seconds", "MiB stated", "MiB measured"]


def row(rate: Rate) -> list[str]:
    """Cells of `HEADER`."""
    return [
        f"{rate.masks:,}",
        f"{rate.layer_runs:,}",
        f"{rate.seconds:.2f}",
        f"{rate.flop_rate / 1e12:.3g}",
        f"{rate.products / 1e12:.3g}",
        f"{rate.share:.2f}",
    ]


def stated(rate: Rate) -> list[str]:
    """Cells of `STATED`."""
    return [
        f"{rate.stated_seconds:.2f}",
        f"{rate.seconds:.2f}",
        f"{rate.stated_mib:,.0f}",
        f"{rate.mib:,.0f}",
    ]

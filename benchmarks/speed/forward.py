"""Cost of masked evaluation: four ways side by side in one process, on models with random weights.

    python -m benchmarks.speed.forward deep          # L=32, D=256, V=4096
    python -m benchmarks.speed.forward wide          # L=16, D=768, V=32000
    python -m benchmarks.speed.forward 7b            # L=32, D=4096, V=32000, bfloat16; for a GPU

(a) zeroes the parameters of the removed layers, as the paper's code does; (b) skips them, one mask at a time; (c) is
the fused forward; (d) is (c) on the model in bfloat16 with its layers compiled in place. The ways take turns, so that
what else the machine does falls on all of them. Large numbers of masks are sampled: some of the plan's sweeps are run,
and the plan's exact layer runs are multiplied by the seconds that a layer run took in them.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from transformers import LlamaForCausalLM

from benchmarks.common import PeakMemory, markdown, provenance, random_calibration, random_llama
from layershap import LayerGame, StratifiedSampler
from layershap.forward.head import sequence_sums
from layershap.forward.plain import PlainForward
from layershap.forward.plan import Sweep
from layershap.model.io import token_logits

SHAPES = {
    "deep": {"n_layers": 32, "width": 256, "inner": 688, "heads": 4, "vocabulary": 4096},
    "wide": {"n_layers": 16, "width": 768, "inner": 2048, "heads": 12, "vocabulary": 32000},
    "7b": {"n_layers": 32, "width": 4096, "inner": 11008, "heads": 32, "vocabulary": 32000},
}


@dataclass
class Way:
    """What one way took: seconds in all, of which in the layers, for so many masks and layer runs."""

    seconds: float = 0.0
    layer_seconds: float = 0.0
    masks: int = 0
    layer_runs: int = 0
    peak: float = 0.0
    nll: dict[bytes, float] = field(default_factory=dict)

    @property
    def seconds_per_run(self) -> float:
        return self.layer_seconds / max(self.layer_runs, 1)

    @property
    def head_seconds(self) -> float:
        """Everything but the layers, per mask."""
        return (self.seconds - self.layer_seconds) / max(self.masks, 1)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def zeroed(game: LayerGame, mask_L: np.ndarray) -> float:
    """Sum of the NLL with the removed layers' parameters set to zero, as the paper's code does, and restored."""
    removed = [game.stack.layers[i] for i in np.flatnonzero(~mask_L)]
    saved = [p.data.clone() for layer in removed for p in layer.parameters()]
    for layer in removed:
        for parameter in layer.parameters():
            parameter.data.zero_()
    total = 0.0
    for block in game.engine.tokens.blocks:
        logits = token_logits(game.engine.model, block.ids_BT)
        total += float(sequence_sums(logits, block.labels_BT, ("nll",))["nll"].sum())
    for parameter, value in zip((p for layer in removed for p in layer.parameters()), saved, strict=True):
        parameter.data.copy_(value)
    return total


def run_one_by_one(way: Way, game: LayerGame, masks: np.ndarray, head_seconds: float, zero: bool) -> None:
    plain = PlainForward(game.engine.model, game.stack, game.engine.tokens, ("nll",), game.engine.settings)
    memory = PeakMemory()
    with game.engine.inference():
        for mask in masks:
            synchronize()
            start = time.perf_counter()
            nll = zeroed(game, mask) if zero else float(plain.run(mask[None], lambda work: None)["nll"].sum())
            synchronize()
            taken = time.perf_counter() - start
            way.nll[mask.tobytes()] = nll
            way.seconds += taken
            way.layer_seconds += taken - head_seconds
            way.masks += 1
            way.layer_runs += len(mask) if zero else int(mask.sum())
    way.peak = max(way.peak, memory.above_baseline())


def run_fused(way: Way, game: LayerGame, sweep: Sweep) -> None:
    marks: list[float] = []

    def mark(work: float) -> None:
        synchronize()
        marks.append(time.perf_counter())

    memory = PeakMemory()
    synchronize()
    start = time.perf_counter()
    found = game.engine.run(sweep.masks_UL, mark)["nll"].sum(axis=1)
    synchronize()
    way.seconds += time.perf_counter() - start
    # The last calls of `mark` are the head's, one a block; the one before them ends the layers.
    way.layer_seconds += marks[-1 - len(game.engine.tokens.blocks)] - start
    way.masks += sweep.n_masks
    way.layer_runs += sweep.layer_runs
    way.peak = max(way.peak, memory.above_baseline())
    way.nll.update({mask.tobytes(): float(nll) for mask, nll in zip(sweep.masks_UL, found, strict=True)})


def head_only(game: LayerGame, repeats: int = 5) -> float:
    """Seconds of a forward that skips every layer: embeddings, norm, LM head and loss."""
    plain = PlainForward(game.engine.model, game.stack, game.engine.tokens, ("nll",), game.engine.settings)
    none = np.zeros((1, game.n_players), dtype=bool)
    seconds = []
    with game.engine.inference():
        for _ in range(repeats):
            synchronize()
            start = time.perf_counter()
            plain.run(none, lambda work: None)
            synchronize()
            seconds.append(time.perf_counter() - start)
    return min(seconds)


def matmul_rate(model: LlamaForCausalLM, tokens: int, repeats: int = 4) -> float:
    """FLOP/s of plain matrix products with the shapes of one layer's weights."""
    weights = [m.weight for m in model.model.layers[0].modules() if isinstance(m, nn.Linear)]
    inputs = [torch.randn(tokens, w.shape[1], dtype=w.dtype, device=w.device) for w in weights]
    flops = sum(2 * tokens * w.numel() for w in weights)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(repeats):
            synchronize()
            start = time.perf_counter()
            for x, w in zip(inputs, weights, strict=True):
                torch.mm(x, w.T)
            synchronize()
            best = min(best, time.perf_counter() - start)
    return flops / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--masks", type=int, nargs="+", default=[512, 1000, 8000])
    parser.add_argument("--sweeps", type=int, default=2, help="sweeps run for each number of masks")
    parser.add_argument("--singles", type=int, default=6, help="masks that (a) and (b) run for each sweep")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if options.shape == "7b" else torch.float32
    shape = SHAPES[options.shape]
    model = random_llama(**shape, dtype=dtype, device=device)
    calibration = random_calibration(shape["vocabulary"])
    game = LayerGame(model, calibration)
    half = copy.deepcopy(model).to(torch.bfloat16)
    for layer in half.model.layers:
        layer.compile()
    fast = LayerGame(half, calibration)
    for warmed in (game, fast):
        warmed(np.ones((1, shape["n_layers"]), dtype=bool))
    rng = np.random.default_rng(0)
    head = head_only(game)
    sampler = StratifiedSampler(replace=True)
    plans = {count: game.plan(sampler.sample(shape["n_layers"], count, rng)) for count in options.masks}
    ways = {name: Way() for name in "abcd"}
    rates = []
    for plan in plans.values():
        for index in rng.permutation(len(plan.sweeps))[: options.sweeps]:
            sweep = plan.sweeps[index]
            singles = sweep.masks_UL[rng.permutation(sweep.n_masks)[: options.singles]]
            run_one_by_one(ways["a"], game, singles, head, zero=True)
            run_one_by_one(ways["b"], game, singles, head, zero=False)
            rates.append(matmul_rate(model, calibration.ids_ST.numel()))
            run_fused(ways["c"], game, sweep)
            run_fused(ways["d"], fast, sweep)

    print(f"{provenance()}\n")
    print(f"{options.shape}: {shape}, {dtype}, 10 x 128 tokens, the paper's strata; head alone {head * 1e3:.1f} ms\n")
    names = {
        "a": "(a) zeroed parameters",
        "b": "(b) skipped, one mask at a time",
        "c": "(c) fused",
        "d": "(d) fused, bfloat16, compiled layers",
    }
    rows = [
        [
            names[key],
            f"{way.seconds / way.masks:.3f}",
            str(way.masks),
            str(way.layer_runs),
            f"{way.seconds_per_run * 1e3:.2f}",
            f"{way.head_seconds * 1e3:.1f}",
            f"{way.peak:.0f}",
        ]
        for key, way in ways.items()
    ]
    header = ["way", "s / mask", "masks run", "layer runs", "ms / layer run", "ms / mask beside the layers", "peak MiB"]
    print(markdown(header, rows) + "\n")
    rows = []
    for count, plan in plans.items():
        mean_kept = plan.layer_runs_one_by_one / plan.n_masks
        runs = {"a": count * shape["n_layers"], "b": count * mean_kept, "c": plan.layer_runs, "d": plan.layer_runs}
        layers = {key: runs[key] * ways[key].seconds_per_run for key in ways}
        heads = {key: (count if key in "ab" else plan.n_masks) * ways[key].head_seconds for key in ways}
        rows.append(
            [str(count), f"{plan.layer_runs:,}"]
            + [f"{runs[key] / plan.layer_runs:.2f}" for key in "ab"]
            + [f"{layers[key] / layers['c']:.2f}" for key in "ab"]
            + [f"{(layers[key] + heads[key]) / (layers['c'] + heads['c']):.2f}" for key in "abd"]
        )
    header = [
        "masks",
        "layer runs (c)",
        "runs a/c",
        "runs b/c",
        "layers' seconds a/c",
        "layers' seconds b/c",
        "all a/c",
        "all b/c",
        "all d/c",
    ]
    print(markdown(header, rows) + "\n")
    cost = game.estimate_cost(np.ones((1, shape["n_layers"]), dtype=bool) & False)
    layer_flops = game.estimate_cost(np.eye(shape["n_layers"], dtype=bool)[:1]).flops - cost.flops
    fused = ways["c"]
    rate = (fused.layer_runs * layer_flops + fused.masks * cost.flops) / fused.seconds
    layer_rate = fused.layer_runs * layer_flops / fused.layer_seconds
    matmul = float(np.median(rates))
    print(
        f"(c) runs at {rate / 1e9:.0f} GFLOP/s ({layer_rate / 1e9:.0f} in the layers); plain matrix products of the "
        f"layer's shapes, timed between: {matmul / 1e9:.0f} GFLOP/s; shares {rate / matmul:.2f} and "
        f"{layer_rate / matmul:.2f}."
    )
    tokens = float(calibration.counts_S.sum())
    ab = max(abs(ways["a"].nll[m] - ways["c"].nll[m]) / tokens for m in ways["a"].nll)
    bc = max(abs(ways["b"].nll[m] - ways["c"].nll[m]) / tokens for m in ways["b"].nll)
    cd = max(abs(ways["d"].nll[m] - ways["c"].nll[m]) / tokens for m in ways["d"].nll)
    print(f"Largest difference of the NLL per token: a to c {ab:.1e}, b to c {bc:.1e}, d to c {cd:.1e}.")


if __name__ == "__main__":
    main()

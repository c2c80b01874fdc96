"""Everything that a card decides, in minutes: ways of scoring masks, size of a layer call, memory, share, a fit.

    scripts/gpu_check.sh                           # this and the tests that need a GPU, in under eight minutes
    python -m benchmarks.speed.gpu_check           # on a CPU with small shapes, as the tests run it

On a GPU the model has the shapes of a 7B one (L=32, D=4096, F=11008, V=32000, bfloat16, random weights) and 500 masks
of the paper's strata are scored on 10 x 128 tokens: parameters zeroed, layers skipped, fused, fused with compiled
layers. Each way stops after its share of the time and says how many masks it ran. Sections are printed as they are
finished, so that a run that is cut off has shown what it has.

Shapes: M masks, L layers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import (
    MODELS,
    markdown,
    provenance,
    random_calibration,
    random_llama,
    sequences,
    wikitext_articles,
)
from benchmarks.speed.forward import SHAPES, Way, head_only, run_fused, run_one_by_one
from benchmarks.speed.rates import HEADER, STATED, evaluation_rate, product_rate, row, stated
from benchmarks.speed.token_budget import SEQUENCE, microseconds_per_token
from layershap import Calibration, LayerGame, LayerPruner, StratifiedSampler
from layershap.datasets import load_smollm2
from layershap.protocols import MaskArray

SMALL = {"n_layers": 6, "width": 64, "inner": 176, "heads": 4, "vocabulary": 512}
"""The shapes on a CPU."""
SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
SHARES = {"a": 0.15, "b": 0.15, "c": 0.2, "d": 0.25}
"""Of the seconds, for each way; the rest is for the other sections."""
NAMES = {
    "a": "parameters zeroed",
    "b": "skipped, one mask at a time",
    "c": "fused",
    "d": "fused, compiled layers",
}


def ways(model: LlamaForCausalLM, calibration: Calibration, masks: MaskArray, options: argparse.Namespace) -> str:
    """Seconds a mask by four ways, in this order: what is compiled stays compiled."""
    game = LayerGame(model, calibration)
    everyone = np.ones((1, game.n_players), dtype=bool)
    game(everyone)
    head = head_only(game)
    found = {key: Way() for key in NAMES}
    for key in "ab":
        for mask in _until(masks, SHARES[key] * options.seconds):
            run_one_by_one(found[key], game, mask[None], head, zero=key == "a")
    if options.compile != "none":
        _fused(found["c"], game, masks, SHARES["c"] * options.seconds)
        for layer in model.model.layers:
            layer.compile(backend=options.compile)
        compiled = LayerGame(model, calibration)
        compiled(everyone)
        _fused(found["d"], compiled, masks, SHARES["d"] * options.seconds)
    else:
        _fused(found["c"], game, masks, SHARES["c"] * options.seconds)
    plan = game.plan(masks)
    runs = {"a": masks.size, "b": plan.layer_runs_one_by_one, "c": plan.layer_runs, "d": plan.layer_runs}
    rows = [_way_row(NAMES[key], way, runs[key], plan.n_masks) for key, way in found.items() if way.masks]
    header = ["way", "masks run", "s / mask", "ms / layer run", "ms beside the layers", "peak MiB", "all masks, s"]
    differ = _largest_difference(found, float(calibration.counts_S.sum()))
    return (
        f"{len(masks)} masks, {plan.n_masks} of them distinct, {plan.layer_runs:,} layer runs if prefixes are shared. "
        f"Compiled by torch's {options.compile!r}; CUDA graphs: the library has none.\n\n{markdown(header, rows)}\n\n"
        f"Largest difference of the NLL per token between two ways: {differ:.1e}."
    )


def _until(masks: MaskArray, seconds: float) -> Iterator[Any]:
    """Masks until the time is over; one at least."""
    end = time.perf_counter() + seconds
    order = np.random.default_rng(0).permutation(len(masks))
    for index in order:
        yield masks[index]
        if time.perf_counter() > end:
            return


def _fused(way: Way, game: LayerGame, masks: MaskArray, seconds: float) -> None:
    end = time.perf_counter() + seconds
    for sweep in game.plan(masks).sweeps:
        run_fused(way, game, sweep)
        if time.perf_counter() > end:
            return


def _way_row(name: str, way: Way, runs: int, heads: int) -> list[str]:
    """The last cell is what all masks would take, by the layer runs that the way needs for them."""
    whole = runs * way.seconds_per_run + heads * way.head_seconds
    return [
        name,
        str(way.masks),
        f"{way.seconds / way.masks:.4f}",
        f"{way.seconds_per_run * 1e3:.3f}",
        f"{way.head_seconds * 1e3:.2f}",
        f"{way.peak:,.0f}",
        f"{whole:.1f}",
    ]


def _largest_difference(found: dict[str, Way], tokens: float) -> float:
    """Over masks that two ways have scored."""
    scored = [way.nll for way in found.values() if way.nll]
    differ = [
        abs(first[mask] - second[mask]) / tokens
        for index, first in enumerate(scored)
        for second in scored[index + 1 :]
        for mask in first.keys() & second.keys()
    ]
    return max(differ, default=float("nan"))


def calls(model: LlamaForCausalLM, tokens: list[int]) -> str:
    """Time of one layer by the tokens of its call, and the share of plain products of as many tokens."""
    layer = sum(p.numel() for p in model.model.layers[0].parameters() if p.dim() == 2)
    rows = []
    for count in tokens:
        micros = microseconds_per_token(model, max(1, count // SEQUENCE), repeats=5)
        products = product_rate(model, count)
        share = 2 * layer / micros * 1e6 / products
        rows.append([f"{count:,}", f"{micros:.3f}", f"{products / 1e12:.3g}", f"{share:.2f}"])
    return markdown(["tokens of a layer call", "microseconds / token", "TFLOP/s of plain products", "share"], rows)


def whole(model: LlamaForCausalLM, calibration: Calibration, masks: MaskArray) -> str:
    """The whole evaluation, head and loss with it: what was stated, and what it was."""
    found = evaluation_rate(model, LayerGame(model, calibration), masks)
    return f"{markdown(HEADER, [row(found)])}\n\n{markdown(STATED, [stated(found)])}"


def fit(options: argparse.Namespace, device: str) -> str:
    """A fit of SmolLM2, or of random weights of its shape where its folder is not there."""
    folder = options.smollm2
    if options.small:
        model: Any = random_llama(**SMALL, dtype=torch.float32, device=device)
        text, what = random_calibration(SMALL["vocabulary"], 8, 32), "random weights of the small shape"
    elif (folder / "config.json").exists():
        model, tokenizer = load_smollm2(folder)
        text = sequences(wikitext_articles()[0], tokenizer, options.sequences)
        model, what = model.to(device), f"SmolLM2-135M-Instruct ({folder.name})"
    else:
        config = LlamaConfig(num_hidden_layers=30, vocab_size=49152, tie_word_embeddings=True, **SMOLLM2)
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(torch.bfloat16).eval().to(device)
        text = random_calibration(49152, options.sequences)
        what = f"random weights of SmolLM2's shape ({folder} holds no checkpoint: times count, sets and scores don't)"
    most = max(1, model.config.num_hidden_layers // 5)
    start = time.perf_counter()
    pruner = LayerPruner(max_remove=most, random_state=0).fit(model, text)
    seconds = time.perf_counter() - start
    found = pruner.diagnostics_
    sets = "; ".join(f"{n}: {' '.join(map(str, pruner.removed_layers(n)))}" for n in range(1, most + 1))
    return (
        f"{what}, {text.n_sequences} sequences, up to {most} layers: {seconds:.1f} s, {found['n_evaluated']} masks, "
        f"{found['layer_runs']:,} layer runs, {found['path']} path. Sets: {sets}."
    )


def sections(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = SMALL if options.small else SHAPES["7b"]
    dtype = torch.float32 if options.small else torch.bfloat16
    calibration = random_calibration(shape["vocabulary"], 2 if options.small else 10)
    model = random_llama(**shape, dtype=dtype, device=device)
    # The whole evaluation draws anew: the game must not have seen its masks.
    first, second = (
        StratifiedSampler(replace=True).sample(shape["n_layers"], options.masks, np.random.default_rng(seed))
        for seed in (0, 1)
    )
    yield "The whole evaluation", whole(model, calibration, second)
    yield "Tokens of a layer call", calls(model, [128, 256] if options.small else [2**power for power in range(11, 17)])
    yield "Four ways", ways(model, calibration, first, options)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    yield "A fit", fit(options, device)


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="7B shapes although there is no GPU")
    parser.add_argument("--masks", type=int, default=500 if on_gpu else 12)
    parser.add_argument("--seconds", type=float, default=200 if on_gpu else 20, help="for the four ways, about")
    parser.add_argument("--sequences", type=int, default=64, help="calibration sequences of the fit")
    parser.add_argument("--compile", default="inductor", choices=["inductor", "eager", "none"])
    parser.add_argument("--smollm2", type=Path, default=MODELS / "smollm2", help="a folder with SmolLM2's checkpoint")
    options = parser.parse_args()
    options.small = not (on_gpu or options.large)
    print(provenance(), flush=True)
    for title, text in sections(options):
        print(f"\n## {title}\n\n{text}", flush=True)


if __name__ == "__main__":
    main()

"""Where the time of evaluating a real model's masks goes, and what it is against the authors' way and plain products.

    python -m benchmarks.speed.real_model_time [--model FOLDER] [--dtypes bfloat16 float32] [--masks 24 1000]

One thread, CPU seconds of this process (`time.process_time`), so that what else the machine does counts little; the
ways take turns in one process, and medians are told. Of many masks a stretch of the sorted ones is run, which shares as
much as the whole; its seconds, without those of the opening of the game, are multiplied by the layer runs.

Shapes: B sequences, T tokens, V vocabulary, D hidden size, L layers, M masks.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from benchmarks.common import MODELS, markdown, packed, provenance, sequences
from layershap import LayerGame, StratifiedSampler
from layershap.datasets import load_smollm2
from layershap.forward import fused as fused_module
from layershap.forward.head import sequence_sums
from layershap.forward.plan import make_sweep
from layershap.model.io import part_of, token_logits
from layershap.protocols import MaskArray

PARTS = (
    "products of the layers",
    "attention",
    "rotary embedding, reshapes",
    "norms",
    "activation, gate",
    "residual sums",
    "product of the head",
    "loss",
    "the rest (Python)",
)
REST = PARTS[-1]


class Clock:
    """CPU seconds by part: what is within another part counts there no more."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = [REST]
        self._last = time.process_time()

    def begin(self, part: str) -> None:
        self.tick()
        self._open.append(part)

    def end(self) -> None:
        self.tick()
        self._open.pop()

    def tick(self) -> None:
        now = time.process_time()
        self.seconds[self._open[-1]] += now - self._last
        self._last = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.begin(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.end()

        return call


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute, for a while."""
    old = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, old)


@contextmanager
def clocked(game: LayerGame) -> Iterator[Clock]:
    """Time the parts of a game's forward within the context; modules are told apart by what they are."""
    model = game.engine.model
    part_of_module: dict[nn.Module | None, str] = {}
    for layer in game.stack.layers:
        part_of_module[layer] = "residual sums"
        for name, module in layer.named_modules():
            if isinstance(module, nn.Linear):
                part_of_module[module] = "products of the layers"
            elif "norm" in name:
                part_of_module[module] = "norms"
            elif name.endswith("attn"):
                part_of_module[module] = "rotary embedding, reshapes"
            elif name.endswith("mlp"):
                part_of_module[module] = "activation, gate"
    norm = getattr(part_of(model, "get_decoder"), "norm", None)
    part_of_module |= {part_of(model, "get_output_embeddings"): "product of the head", norm: "norms"}
    clock = Clock()

    def before(module: nn.Module, args: Any) -> None:
        if module in part_of_module:
            clock.begin(part_of_module[module])

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if module in part_of_module:
            clock.end()

    hooks = [register_module_forward_pre_hook(before), register_module_forward_hook(after)]
    attention = functional.scaled_dot_product_attention
    try:
        with (
            replaced(functional, "scaled_dot_product_attention", clock.timed("attention", attention)),
            replaced(fused_module, "sequence_sums", clock.timed("loss", sequence_sums)),
        ):
            clock.begin(REST)
            yield clock
            clock.end()
    finally:
        for hook in hooks:
            hook.remove()


def children(n_layers: int, count: int) -> MaskArray:
    """Some of what a step of greedy's path asks for with three layers gone: another layer removed too."""
    kept = np.ones(n_layers, dtype=bool)
    kept[[n_layers // 3, n_layers // 2, 2 * n_layers // 3]] = False
    more = np.flatnonzero(kept)[:: max(1, (n_layers - 3) // count)]
    return np.array([kept & (np.arange(n_layers) != layer) for layer in more])


def product_seconds(weights: list[Tensor], tokens: int, repeats: int = 5) -> float:
    """CPU seconds of plain products of so many tokens with each weight once, the median of some repeats."""
    inputs = [torch.randn(tokens, weight.shape[1], dtype=weight.dtype) for weight in weights]
    outputs = [torch.empty(tokens, len(weight), dtype=weight.dtype) for weight in weights]
    seconds = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            start = time.process_time()
            for tokens_ND, weight, out in zip(inputs, weights, outputs, strict=True):
                torch.mm(tokens_ND, weight.T, out=out)
            seconds.append(time.process_time() - start)
    return float(np.median(seconds[1:]))


@dataclass
class Call:
    """One evaluation of masks, timed by part; the products that it made, alone."""

    name: str
    seconds: dict[str, float]
    flops: float
    products: float

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def rate(self) -> float:
        return self.flops / self.total


def layer_weights(game: LayerGame) -> list[Tensor]:
    """Those of one layer; all layers are alike."""
    return [module.weight for module in game.stack.layers[0].modules() if isinstance(module, nn.Linear)]


def timed_call(name: str, game: LayerGame, masks_ML: MaskArray, repeats: int) -> Call:
    """Evaluate masks some times, and take the median of each part."""
    plan = game.engine.plan(masks_ML)
    tokens = game.engine.tokens
    found = []
    with clocked(game) as clock:
        for _ in range(repeats + 1):
            clock.seconds.clear()
            for sweep in plan.sweeps:
                game.engine.run(sweep.masks_UL, lambda work: None)
            clock.tick()
            found.append(dict(clock.seconds))
    seconds = {part: float(np.median([one.get(part, 0.0) for one in found[1:]])) for part in PARTS}
    layer, output = layer_weights(game), part_of(game.engine.model, "get_output_embeddings")
    assert isinstance(output, nn.Linear)
    head = output.weight
    layer_flops = 2 * sum(weight.numel() for weight in layer)
    head_flops = 2 * head.numel()
    flops = tokens.n_tokens * (plan.layer_runs * layer_flops + plan.n_masks * head_flops)
    call_tokens = max(block.ids_BT.numel() for block in tokens.blocks)
    call_tokens *= max(1, game.engine.settings.batch_tokens // call_tokens)
    alone = product_seconds(layer, call_tokens) / call_tokens * tokens.n_tokens * plan.layer_runs
    alone += product_seconds([head], 1280) / 1280 * tokens.n_tokens * plan.n_masks
    return Call(name, seconds, flops, alone)


def table_of_parts(calls: list[Call]) -> str:
    rows = [
        [part, *(f"{call.seconds[part]:.2f} ({call.seconds[part] / call.total:.0%})" for call in calls)]
        for part in PARTS
    ]
    rows.append(["all", *(f"{call.total:.2f}" for call in calls)])
    rows.append(["its products alone", *(f"{call.products:.2f}" for call in calls)])
    rows.append(["GFLOP/s", *(f"{call.rate / 1e9:.0f}" for call in calls)])
    rows.append(["GFLOP/s of the products alone", *(f"{call.flops / call.products / 1e9:.0f}" for call in calls)])
    rows.append(["share", *(f"{call.products / call.total:.2f}" for call in calls)])
    return markdown(["CPU seconds", *(call.name for call in calls)], rows)


def authors_loss(model: nn.Module, layers: list[nn.Module], ids_BT: Tensor) -> float:
    """The NLL of one mask as the paper's code has it: parameters of removed layers zeroed, whole float32 logits."""
    saved = [parameter.data.clone() for layer in layers for parameter in layer.parameters()]
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    for parameter in parameters:
        parameter.data.zero_()
    logits = token_logits(model, ids_BT)[:, :-1].float().contiguous()
    loss = functional.cross_entropy(logits.flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="sum")
    for parameter, value in zip(parameters, saved, strict=True):
        parameter.data.copy_(value)
    return float(loss)


@dataclass
class Ways:
    """CPU seconds of the authors' way for one mask, and of the fused forward for a plan."""

    masks: int
    layer_runs: int
    authors_runs: int
    authors: float
    fused: float
    gap: float

    @property
    def row(self) -> list[str]:
        return [
            str(self.masks),
            f"{self.authors_runs:,}",
            f"{self.layer_runs:,}",
            f"{self.authors_runs / self.layer_runs:.2f}",
            f"{self.authors:.1f}",
            f"{self.fused:.1f}",
            f"{self.authors / self.fused:.2f}",
            f"{self.gap:.0e}",
        ]


def timed_ways(game: LayerGame, count: int, options: argparse.Namespace) -> Ways:
    """Both ways in turns on masks of the paper's strata and the whole model, a game from its making included."""
    sampler = StratifiedSampler(replace=True)
    drawn_ML = sampler.sample(game.n_players, count, np.random.default_rng(0))
    full_1L = np.ones((1, game.n_players), dtype=bool)
    plan = game.engine.plan(np.concatenate([full_1L, drawn_ML]))
    sweep = plan.sweeps[len(plan.sweeps) // 2]
    sweep = make_sweep(sweep.masks_UL[: options.stretch])
    rng = np.random.default_rng(1)
    model, ids_ST = game.engine.model, game.calibration.ids_ST
    authors, fused, gaps = [], [], []
    for _ in range(options.repeats):
        found = {}
        for index in rng.permutation(sweep.n_masks)[: options.singles]:
            removed = [game.stack.layers[layer] for layer in np.flatnonzero(~sweep.masks_UL[index])]
            with game.engine.inference():
                start = time.process_time()
                found[index] = authors_loss(model, removed, ids_ST)
                authors.append(time.process_time() - start)
        start = time.process_time()
        with LayerGame(model, game.calibration) as fresh:
            opened = fresh.engine.path == "fused"
            opening = time.process_time() - start
            sums = fresh.engine.run(sweep.masks_UL, lambda work: None)["nll"].sum(axis=1)
        assert opened
        fused.append(opening + (time.process_time() - start - opening) * plan.layer_runs / sweep.layer_runs)
        tokens = float(game.calibration.counts_S.sum())
        gaps += [abs(sums[index] - loss) / tokens for index, loss in found.items()]
    return Ways(
        masks=count,
        layer_runs=plan.layer_runs,
        authors_runs=(count + 1) * game.n_players,
        authors=float(np.median(authors)) * (count + 1),
        fused=float(np.median(fused)),
        gap=max(gaps),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODELS / "smollm2"), help="folder; SmolLM2 is fetched if it isn't there")
    parser.add_argument("--dtypes", nargs="+", choices=("bfloat16", "float32"), default=["bfloat16", "float32"])
    parser.add_argument("--masks", type=int, nargs="*", default=[24], help="against the authors' way")
    parser.add_argument("--races", type=int, nargs="*", default=[4, 32], help="sequences of a search's parts")
    parser.add_argument("--children", type=int, default=6, help="masks of a step of that search")
    parser.add_argument("--stretch", type=int, default=64, help="masks run of a plan")
    parser.add_argument("--compile", action="store_true", help="compile the layers before both ways are timed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--singles", type=int, default=4, help="masks that the authors' way runs in each repeat")
    options = parser.parse_args()
    torch.set_num_threads(1)
    calls, ways = [], []
    for name in options.dtypes:
        model, tokenizer = load_smollm2(options.model, dtype=getattr(torch, name))
        text = packed("wikitext2-valid")
        for count in options.races:
            with LayerGame(model, sequences(text, tokenizer, count)) as game:
                masks_ML = children(game.n_players, options.children)
                calls.append(timed_call(f"{name}, {count} sequences", game, masks_ML, options.repeats))
        with LayerGame(model, sequences(text, tokenizer, 10)) as game:
            for layer in game.stack.layers if options.compile else ():
                layer.compile()
            ways += [[name, *timed_ways(game, count, options).row] for count in options.masks]
    print(f"{provenance()}\n")
    if calls:
        print(table_of_parts(calls) + "\n")
    header = ["precision", "masks", "layer runs (authors)", "fused", "ratio"]
    header += ["CPU s (authors)", "fused", "ratio", "largest gap, nats"]
    print(markdown(header, ways))


if __name__ == "__main__":
    main()

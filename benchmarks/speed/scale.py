"""What fits of 7B, 70B and 405B models cost: layer runs, FLOPs, bytes of state, hours on 1, 8 and 64 cards.

    python -m benchmarks.speed.scale --write docs/scale.md             # a quarter of an hour: 126 layers to plan
    python -m benchmarks.speed.scale --check --write docs/scale.md     # the share of the matrix rate on this machine

Counts are `LayerPruner.estimate_cost`'s on models without weights. Hours rest on three assumptions that are options:
what a card's plain matrix products reach, what share of it an evaluation reaches, and how fast a layer that doesn't fit
is loaded. `--check` measures the share on the machine at hand, on models with random weights.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import markdown, print_or_write, provenance, random_calibration, random_llama
from benchmarks.speed.fit_cost import SIZES, estimates, skeleton
from benchmarks.speed.rates import HEADER, evaluation_rate, row
from layershap import LayerGame, StratifiedSampler
from layershap.forward.cost import CostEstimate

CARDS = (1, 8, 64)
SWEEP = 4096
"""Masks of one sweep over offloaded layers."""


@dataclass(frozen=True)
class Assumptions:
    """What isn't counted but assumed.

    Attributes
    ----------
    products : float
        FLOP/s of a card's plain bfloat16 matrix products.
    share : float
        Share of it that an evaluation reaches.
    card_bytes : float
        Memory of a card.
    room : float
        Share of it that weights may fill.
    loading : float
        Bytes/s at which a card loads a layer that lies on the host.
    """

    products: float
    share: float
    card_bytes: float
    room: float
    loading: float

    @property
    def rate(self) -> float:
        return self.products * self.share

    def cards_of_a_copy(self, weight_bytes: float) -> int:
        return math.ceil(weight_bytes / (self.card_bytes * self.room))


@dataclass(frozen=True)
class Work:
    """A fit of one model.

    Attributes
    ----------
    shared, alone : float
        FLOPs if what masks have in common is computed once, and if every mask is run alone.
    loads : int
        How often every layer is loaded where it doesn't stay on the card.
    weight_bytes : float
        Of the whole model.
    """

    shared: float
    alone: float
    loads: int
    weight_bytes: float


def work_of(cost: CostEstimate, layer: float, head: float, weight_bytes: float, *, searches: bool) -> Work:
    """`layer` and `head` are FLOPs of one run a token."""
    parts = (cost, *cost.further)
    alone = sum(part.n_tokens * (part.layer_runs_one_by_one * layer + part.n_distinct * head) for part in parts)
    if searches:
        # Greedy's steps and the search's rounds ask for about as many sets at a time as there are players.
        loads = sum(2 + math.ceil(part.n_distinct / part.n_players) for part in parts)
    else:
        loads = sum(math.ceil(part.n_distinct / SWEEP) for part in parts)
    return Work(sum(part.flops for part in parts), alone, loads, weight_bytes)


def hours(work: Work, cards: int, given: Assumptions) -> tuple[float, float, bool]:
    """Hours if the cards' shares of the masks still share all that one process's do, and if they share nothing; and
    whether layers are loaded from the host.

    Where a copy of the model needs several cards, one of them works at a time; or all of them work, each on its part of
    the masks, and load every layer from the host: the faster of the two.
    """
    needed = given.cards_of_a_copy(work.weight_bytes)
    ways = []
    if cards >= needed:
        ways.append((*_computing(work, cards // needed, given), False))
    if needed > 1:
        loading = work.loads * work.weight_bytes / given.loading / 3600
        lower, upper = _computing(work, cards, given)
        ways.append((max(lower, loading), max(upper, loading), True))
    return min(ways, key=lambda way: way[1])


def _computing(work: Work, workers: int, given: Assumptions) -> tuple[float, float]:
    """Hours of so many cards that compute at once."""
    most = work.shared if workers == 1 else work.alone
    return work.shared / (given.rate * workers) / 3600, most / (given.rate * workers) / 3600


def of_model(size: str, given: Assumptions) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of the table of counts and of the table of hours."""
    model = skeleton(*SIZES[size])
    text = random_calibration(model.config.vocab_size, 10)
    n_layers, tokens = model.config.num_hidden_layers, text.ids_ST.numel()
    game = LayerGame(model, text)
    head = game.estimate_cost(np.zeros((1, n_layers), dtype=bool)).flops
    layer = game.estimate_cost(np.eye(n_layers, dtype=bool)[:1]).flops - head
    weight_bytes = 2.0 * sum(parameter.numel() for parameter in model.parameters())
    counts, times = [], []
    # Sets of every size up to all layers are thousands of small calls to plan, and nobody's aim at this size.
    for what, cost in estimates(model, unlimited=False).items():
        parts = (cost, *cost.further)
        work = work_of(cost, layer / tokens, head / tokens, weight_bytes, searches="default" in what)
        counts.append(
            [
                size.upper(),
                what,
                f"{cost.n_masks:,}",
                f"{cost.layer_runs:,} x {cost.n_tokens:,}",
                f"{cost.layer_run_tokens / 1e6:,.0f}",
                f"{work.shared:.1e}",
                f"{max(2 * part.n_tokens * model.config.hidden_size for part in parts) / 2**20:,.0f}",
                f"{max(part.peak_bytes for part in parts) / 2**30:,.1f}",
            ]
        )
        cells = [_hours(*hours(work, cards, given)) for cards in CARDS]
        times.append([size.upper(), what, str(given.cards_of_a_copy(weight_bytes)), str(work.loads), *cells])
    return counts, times


def _hours(lower: float, upper: float, loaded: bool) -> str:
    """Two figures where they differ by more than a tenth; a star where layers are loaded from the host. What takes less
    than half a minute is a matter of what isn't counted.
    """
    if upper < 0.01:
        return "< 0.01"
    text = f"{lower:.2g}" if upper <= 1.1 * lower else f"{lower:.2g} to {upper:.2g}"
    return f"{text}*" if loaded else text


COUNTED = [
    "model",
    "what",
    "masks",
    "layer runs x tokens, first part of the text",
    "layer runs x tokens in all, 10^6",
    "FLOP",
    "one state, MiB",
    "states and logits at most, GiB",
]


def scale(sizes: list[str], given: Assumptions) -> str:
    counts, times = [], []
    for size in sizes:
        found = of_model(size, given)
        counts += found[0]
        times += found[1]
    hours_of = [f"hours, {n} card{'s' * (n > 1)}" for n in CARDS]
    header = ["model", "what", "cards for a copy", "loads of each layer", *hours_of]
    assumed = (
        f"Hours at {given.products / 1e12:.0f} TFLOP/s of plain products and a share of {given.share}, cards of "
        f"{given.card_bytes / 1e9:.0f} GB of which weights fill {given.room}, {given.loading / 1e9:.0f} GB/s for "
        "layers that are loaded (\\*):"
    )
    return f"{markdown(COUNTED, counts)}\n\n{assumed}\n\n{markdown(header, times)}"


CHECKED = {
    "D=256, 16 layers, float32": ((16, 256, 688, 4, 4096), torch.float32, 48),
    "D=768, 8 layers, float32": ((8, 768, 2048, 12, 8192), torch.float32, 12),
    "D=768, 8 layers, bfloat16": ((8, 768, 2048, 12, 8192), torch.bfloat16, 24),
    "D=2048, 4 layers, bfloat16": ((4, 2048, 5504, 16, 8192), torch.bfloat16, 6),
}


def check(names: list[str]) -> str:
    """Evaluations of some masks of the paper's strata on this machine."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for name in names:
        (n_layers, width, inner, heads, vocabulary), dtype, n_masks = CHECKED[name]
        model = random_llama(n_layers, width, inner, heads, vocabulary, dtype, device)
        game = LayerGame(model, random_calibration(vocabulary))
        masks = StratifiedSampler(replace=True).sample(n_layers, n_masks, np.random.default_rng(0))
        rows.append([name, *row(evaluation_rate(model, game, masks))])
    return markdown(["model, 10 x 128 tokens", *HEADER], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=SIZES, default=["7b", "70b", "405b"])
    parser.add_argument("--products", type=float, default=600e12, help="FLOP/s of a card's plain bfloat16 products")
    parser.add_argument("--share", type=float, default=0.5, help="of it that an evaluation reaches")
    parser.add_argument("--card-bytes", type=float, default=80e9)
    parser.add_argument("--room", type=float, default=0.8, help="share of a card that weights may fill")
    parser.add_argument("--loading", type=float, default=25e9, help="bytes/s from host to card")
    parser.add_argument("--check", action="store_true", help="measure the share on this machine instead")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--write", type=Path, help="a page; between its markers scale or check, as <!-- scale: begin -->"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    given = Assumptions(options.products, options.share, options.card_bytes, options.room, options.loading)
    text = check(list(CHECKED)) if options.check else scale(options.models, given)
    print_or_write(f"{provenance()}\n\n{text}", options.write, "check" if options.check else "scale")


if __name__ == "__main__":
    main()

"""The methods that `selection.py` sets side by side, each as (name, estimator made for a seed)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from layershap import Greedy, LayerPruner, ShapleyRanking, SurrogateSearch
from layershap.baselines import (
    SLEB,
    AngularDistance,
    BruteForce,
    LastLayers,
    RandomLayers,
    RelativeMagnitude,
    ShortenedLlama,
    ShortGPT,
    SliceGPT,
)
from layershap.selection.greedy import greedy_masks

DEFAULT = "layershap, default"
GREEDY_MASKS = "layershap, no more masks than greedy"
GREEDY = "greedy (SLEB without barriers)"
ONE_SHOT = "one-shot perplexity"
SHORT_GPT = "ShortGPT"
SLICE_GPT = "SliceGPT (width, as many parameters)"
EXACT = "exact Shapley values, ranked"
OPTIMUM = "best on the calibration text"


def paper(n_masks: int) -> str:
    return f"the paper's recipe, {n_masks:,} masks"


def of_the_paper(n_masks: int, seed: int) -> LayerPruner:
    return LayerPruner.paper(n_masks=n_masks, random_state=seed)


def greedy_pruner(n_players: int, deepest: int, ledger: Path, protect: tuple[int, ...] = ()) -> LayerPruner:
    """Greedy elimination that drops candidates on a part of the text, as the default does, with no mask to spare."""
    return LayerPruner(
        selector=Greedy(),
        n_masks=max(greedy_masks(n_players, deepest), n_players + 1),
        max_remove=deepest,
        protect=protect,
        random_state=0,
        ledger=ledger,
    )


def methods(
    n_layers: int, max_remove: int, paper_masks: tuple[int, ...], *, llama: bool
) -> dict[str, Callable[[int], Any]]:
    """Name -> function of the seed; those that take a ``ledger`` are given one."""
    found: dict[str, Callable[[int], Any]] = {
        DEFAULT: lambda seed: LayerPruner(max_remove=max_remove, random_state=seed),
        # A bounded path needs fewer masks than greedy's, and leaves the rest to the search.
        GREEDY_MASKS: lambda seed: LayerPruner(
            selector=SurrogateSearch(bounded=True),
            n_masks=max(SurrogateSearch().n_required(n_layers, max_remove), n_layers + 1),
            max_remove=max_remove,
            random_state=seed,
        ),
        "layershap, ranking by value": lambda seed: LayerPruner(
            selector=ShapleyRanking(), n_masks=min(256, 2**n_layers - 2), random_state=seed
        ),
    }
    for count in paper_masks:
        found[paper(count)] = partial(of_the_paper, count)
    found |= {
        GREEDY: lambda seed: SLEB(early_barrier=0, latter_barrier=0, max_remove=max_remove),
        "SLEB": lambda seed: SLEB(max_remove=min(max_remove, n_layers - 2)),
        ONE_SHOT: lambda seed: ShortenedLlama(),
        "Taylor": lambda seed: ShortenedLlama(criterion="taylor"),
        "Taylor, ends protected": lambda seed: ShortenedLlama(criterion="taylor", protect_ends=True),
        "magnitude": lambda seed: ShortenedLlama(criterion="magnitude"),
        "magnitude, ends protected": lambda seed: ShortenedLlama(criterion="magnitude", protect_ends=True),
        SHORT_GPT: lambda seed: ShortGPT(),
        "relative magnitude": lambda seed: RelativeMagnitude(),
        "angular distance": lambda seed: AngularDistance(),
        "last layers": lambda seed: LastLayers(),
        "random": lambda seed: RandomLayers(random_state=seed),
    }
    if llama:
        found[SLICE_GPT] = lambda seed: SliceGPT()
    if n_layers <= 7:
        found = {name: make for name, make in found.items() if "protected" not in name}
    if n_layers <= 12:
        found[OPTIMUM] = lambda seed: BruteForce(max_remove=max_remove)
    return found


ON_MORE_TEXT = (DEFAULT, GREEDY, ONE_SHOT, SHORT_GPT, "Taylor")
"""Those that are also given more calibration text."""

"""What a fit will cost: the masks that it is expected to evaluate, planned and timed instead.

The sets that a selector will choose aren't known before it searches: random ones of their sizes stand for them, asked
for in small calls.

Shapes: M masks, L layers, P players (removable layers).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import comb

import numpy as np
from sklearn.base import clone

from layershap.calibration import Calibration
from layershap.fitting.budget import Spending
from layershap.fitting.evidence import protected_layers
from layershap.fitting.halving import most_compared
from layershap.fitting.masks import check_max_remove, share_masks
from layershap.fitting.record import widened
from layershap.forward.cost import CostEstimate
from layershap.game import LayerGame
from layershap.protocols import Sampler, Selector
from layershap.samplers.distinct import distinct_masks
from layershap.shapley import sample_strata


def expected_cost(
    game: LayerGame,
    sampler: Sampler,
    selector: Selector,
    spending: Spending,
    open_game: Callable[[Calibration], LayerGame],
    *,
    protect: Sequence[int],
    n_masks: int | None,
    max_remove: int | None,
    rng: np.random.Generator,
) -> CostEstimate:
    """The cost of the sampler's draws and the selector's search, and of the final choice on further text.

    Parameters are those of `layershap.fitting.evidence.gather` and `layershap.fitting.halving.final_choice`.
    """
    _, removable = protected_layers(game, protect)
    n_players = int(removable.sum())
    limit = check_max_remove(max_remove, None, removable)
    sizes = range(1, limit + 1)

    total, n_sampled = share_masks(n_masks, selector, n_players, limit)
    sampler = clone(sampler) if hasattr(sampler, "get_params") else sampler
    drawn = sampler.sample(n_players, n_sampled, rng)
    kept = range(n_players - 1, max(n_players - limit - 2, 0), -1)  # `SurrogateSearch` looks one size further
    searched = distinct_masks(n_players, dict.fromkeys(kept, 1.0), total - n_sampled, rng, drawn)
    # A search asks for a few sets of about one size at a time, as many as there are players in greedy's first step.
    calls = np.array_split(searched, range(n_players, len(searched), n_players))
    dense = np.ones((1, n_players), dtype=bool)
    search = game.estimate_cost(*(widened(call, removable) for call in (dense, drawn, *calls) if len(call)))

    final: list[CostEstimate] = []
    for step, part in enumerate(spending.more, start=1):
        compared = [
            sample_strata(n_players, [n_players - n], min(most_compared(step), comb(n_players, n)), rng) for n in sizes
        ]
        masks = np.concatenate(compared)
        if not len(masks):
            break
        with open_game(part) as further:
            final.append(further.estimate_cost(widened(masks, removable)))
    return replace(search, final_choice=tuple(final))

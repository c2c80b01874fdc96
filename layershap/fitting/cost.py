"""What a fit will cost: the masks that it is expected to evaluate, planned and timed instead.

The sets that a selector will choose aren't known before it searches: random ones of their sizes stand for them, asked
for in small calls.

Shapes: M masks, L layers, P players (removable layers).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from layershap.fitting.masks import share_masks
from layershap.fitting.settings import FitSettings
from layershap.fitting.text_game import TextGame
from layershap.forward.cost import CostEstimate
from layershap.limits import check_max_remove
from layershap.masks import leave_one_out_masks, over_layers
from layershap.protocols import MaskArray, SearchingSelector
from layershap.samplers.distinct import draw_distinct

_FINALISTS = 3
"""Sets of each size that are scored on all of the text, about."""


def expected_cost(game: TextGame, settings: FitSettings, rng: np.random.Generator) -> CostEstimate:
    """The cost of the draws for the values and of the selector's search, part by part of the text.

    On each part of the text half of the sets in a race are taken to drop out, down to 3 of each size.
    """
    removable = game.found.removable(settings.protect)
    keep_veto = settings.values.keep_veto
    n_players = int(removable.sum())
    limit = check_max_remove(settings.max_remove, None, removable)
    total, n_drawn = share_masks(settings.n_masks, settings.selector, n_players, limit, keep_veto=keep_veto)
    drawn = settings.sampler.sample(n_players, n_drawn, rng)
    known = leave_one_out_masks(n_players)[: n_players if keep_veto else 0]
    kept = range(n_players - 1, max(n_players - limit - 2, 0), -1)  # `SurrogateSearch` looks one size further
    n_searched = total - n_drawn - len(known) if isinstance(settings.selector, SearchingSelector) else 0
    searched = draw_distinct(n_players, dict.fromkeys(kept, 1.0), max(n_searched, 0), rng, drawn)
    dense = np.ones((1, n_players), dtype=bool)
    known = np.concatenate([known, ~dense]) if keep_veto else known
    finalists = min(len(searched), _FINALISTS * limit)
    estimates = []
    for index in range(game.n_parts):
        racing = searched[rng.permutation(len(searched))[: max(finalists, len(searched) >> index)]]
        if index >= len(game.text.searched):
            racing = racing[:finalists]
        values = (known, drawn) if index < game.text.n_value_parts else ()
        calls = [call for call in (dense, *values, *_small(racing, n_players)) if len(call)]
        estimates.append(game.part(index).estimate_cost(*(over_layers(call, removable) for call in calls)))
    return replace(estimates[0], further=tuple(estimates[1:]))


def _small(masks: MaskArray, n_players: int) -> list[MaskArray]:
    """A search asks for a few sets of about one size at a time, as many as there are players in greedy's first step."""
    return np.array_split(masks, range(n_players, len(masks), n_players))

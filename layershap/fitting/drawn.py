"""The masks that values are estimated from: the leave-one-outs, then masks drawn at random, apart from any search.

Shapes: M masks, L layers, P players (removable layers), F free players (those without a veto). True = layer kept.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone

from layershap.fitting.masks import ROUNDS, check_drawn
from layershap.fitting.settings import FitSettings
from layershap.fitting.text_game import TextGame
from layershap.fitting.veto import lost_without, veto_players
from layershap.limits import is_int
from layershap.masks import is_among, leave_one_out_masks, mask_keys, over_layers
from layershap.protocols import (
    AdaptiveSampler,
    FloatArray,
    LeaveOneOutSampler,
    MaskArray,
    Parametrised,
    Sampler,
    SearchingSelector,
    StrataSampler,
)
from layershap.samplers import strata_of

_MASKS_PER_VETO_PLAYER = 8


@dataclass(frozen=True)
class DrawnMasks:
    """Masks whose probability is known, with their scores on the same text.

    Attributes
    ----------
    free : ndarray [L] of bool
        The players of the values' game: removable layers without a veto, which is kept in all of `masks`.
    lost : ndarray [L] of bool
        Layers without which alone the model is lost.
    veto : ndarray [L] of bool
        These, where at least two players are left if all of them are kept; else none.
    strata : tuple of int
        Numbers of kept free players that the values average over.
    masks, scores : ndarray [M, L], [M]
        The whole model and the leave-one-outs of the free players, where veto players were looked for; then the
        sampler's other draws, repetitions included.
    n_known : int
        How many of them come before the draws.
    beside, beside_scores : ndarray [K, L], [K]
        Scored to look for veto players, no part of the values' game: the empty coalition, and the leave-one-outs of the
        veto players.
    veto_masks, veto_scores : ndarray [V, C, L], [V, C]
        For each veto player, up to 8 of the draws without it too; those with it are among `masks`.
    """

    free: MaskArray
    lost: MaskArray
    veto: MaskArray
    strata: tuple[int, ...]
    masks: MaskArray
    scores: FloatArray
    n_known: int
    beside: MaskArray
    beside_scores: FloatArray
    veto_masks: MaskArray
    veto_scores: FloatArray

    @property
    def of_players(self) -> MaskArray:
        """The masks' columns of free players [M, F]."""
        return self.masks[:, self.free]


def draw_masks(
    game: TextGame,
    settings: FitSettings,
    removable: MaskArray,
    n_masks: int,
    rng: np.random.Generator,
) -> DrawnMasks:
    """Score the masks that values are estimated from, on the first parts of the text.

    Parameters
    ----------
    game : TextGame
        Scores masks, on the parts of its text that values are estimated on.
    settings : FitSettings
        Its sampler draws over the free players; an adaptive one is asked in rounds and told the scores after each. Its
        values say whether veto players are found, by the leave-one-outs, and which sizes are averaged over. Where its
        selector searches, the leave-one-outs are scored in any case.
    removable : ndarray [L] of bool
        The players.
    n_masks : int
        What the sampler may draw.
    rng : numpy.random.Generator
        Of the draws.
    """
    n_parts = game.text.n_value_parts
    keep_veto = settings.values.keep_veto
    everyone = np.ones((1, len(removable)), dtype=bool)
    known = beside = everyone[:0]
    lost = veto = np.zeros_like(removable)
    if keep_veto or isinstance(settings.selector, SearchingSelector):
        alone = over_layers(leave_one_out_masks(int(removable.sum())), removable)
        first = np.concatenate([everyone, ~removable[None], alone])
        scores = game.scores(first, n_parts)
        without = np.full(len(removable), np.nan)
        without[removable] = np.where(np.isfinite(scores[2:]), scores[2:], -np.inf)
        if keep_veto:
            lost = lost_without(without, float(scores[0]), float(scores[1]))
            veto = veto_players(lost, removable)
        known = np.concatenate([everyone, alone[~veto[removable]]])
        beside = np.concatenate([~removable[None], alone[veto[removable]]])
    free = removable & ~veto
    sampler = _over_free_players(settings.sampler, int(veto.sum()))
    n_veto = max(int(veto.sum()), 1)
    # Two at least, for an error, where that leaves half of the masks for the others.
    per_veto = min(_MASKS_PER_VETO_PLAYER, max(n_masks // (4 * n_veto), 2 if n_masks >= 4 * n_veto else 0))
    n_drawn = n_masks - per_veto * int(veto.sum())
    # A sampler that begins with the leave-one-outs repeats what is known already, on top of what it may draw.
    if len(known) and isinstance(sampler, LeaveOneOutSampler) and sampler.leave_one_out:
        n_drawn += int(free.sum())
    drawn = _drawn(game, sampler, free, n_drawn, rng)
    new = over_layers(drawn, free)
    masks = np.concatenate([known, new[~is_among(new, set(mask_keys(known)))]]) if len(new) else known
    of_players = drawn if len(drawn) else masks[:, free]
    shapley = settings.values.weights == "shapley"
    strata = tuple(range(int(free.sum()) + 1) if shapley else strata_of(sampler, of_players))
    without = _without(masks, free, veto, strata, rng, at_most=per_veto)
    veto_scores = game.scores(without.reshape(-1, len(free)), n_parts) if without.size else np.empty(0)
    return DrawnMasks(
        free=free,
        lost=lost,
        veto=veto,
        strata=strata,
        masks=masks,
        scores=game.scores(masks, n_parts),
        n_known=len(known),
        beside=beside,
        beside_scores=game.scores(beside, n_parts) if len(beside) else np.empty(0),
        veto_masks=without,
        veto_scores=veto_scores.reshape(without.shape[:2]),
    )


def _over_free_players(sampler: Sampler, n_veto: int) -> Sampler:
    """A sampler whose strata are numbers of kept layers, the veto players among them, for the free players alone."""
    strata = sampler.strata if isinstance(sampler, StrataSampler) else None
    if not n_veto or isinstance(strata, str) or strata is None or not all(map(is_int, strata)):
        return sampler
    fewer = [max(int(k) - n_veto, 0) for k in strata]
    if isinstance(sampler, Parametrised):
        return clone(sampler).set_params(strata=fewer)
    free: Any = copy.copy(sampler)
    free.strata = fewer
    return free


def _drawn(game: TextGame, sampler: Sampler, free: MaskArray, n_masks: int, rng: np.random.Generator) -> MaskArray:
    """The sampler's masks over the free players [M, F]."""
    n_free = int(free.sum())
    masks = np.empty((0, n_free), dtype=bool)
    rounds = ROUNDS if isinstance(sampler, AdaptiveSampler) else 1
    for index in range(rounds):
        asked = (n_masks * (index + 1)) // rounds - len(masks)
        masks = np.concatenate([masks, check_drawn(sampler.sample(n_free, asked, rng), n_free, asked)])
        if isinstance(sampler, AdaptiveSampler):
            sampler.update(masks, game.scores(over_layers(masks, free), game.text.n_value_parts))
    if n_masks and not len(masks):
        raise ValueError(f"a sampler must return masks, {type(sampler).__name__} returned none of {n_masks}")
    return masks


def _without(
    masks_ML: MaskArray,
    free: MaskArray,
    veto: MaskArray,
    strata: tuple[int, ...],
    rng: np.random.Generator,
    *,
    at_most: int,
) -> MaskArray:
    """For each veto player, masks of the strata in turn without that player too [V, C, L]."""
    kept_M = masks_ML[:, free].sum(axis=1)
    present = [size for size in strata if (kept_M == size).any()]
    count = at_most if present else 0
    found = np.empty((int(veto.sum()), count, masks_ML.shape[1]), dtype=bool)
    for row, player in enumerate(np.flatnonzero(veto)):
        start = int(rng.integers(len(present))) if present else 0
        for place in range(count):
            size = present[(start + place) % len(present)]
            found[row, place] = masks_ML[rng.choice(np.flatnonzero(kept_M == size))]
            found[row, place, player] = False
    return found

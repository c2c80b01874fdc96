"""From a game to evaluated masks: what is drawn at random for the values, then what the selector searches.

Shapes: M masks, L layers, P players (removable layers), B resamples of the calibration sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layershap.fitting.drawn import DrawnMasks, draw_masks
from layershap.fitting.final_choice import FinalChoice, final_choice
from layershap.fitting.masks import finite_scores, share_masks, try_sampler
from layershap.fitting.precision import PrecisionCheck, check_precision
from layershap.fitting.removable_game import RemovableGame
from layershap.fitting.settings import FitSettings
from layershap.fitting.text_game import TextGame
from layershap.limits import check_max_remove, check_n_remove, most_removable
from layershap.masks import allowed, first_rows, is_among, mask_keys
from layershap.protocols import (
    FloatArray,
    MaskArray,
    SearchingSelector,
)
from layershap.utilities.naming import score_name


@dataclass(frozen=True)
class Evidence:
    """What was evaluated, and what may be removed.

    Attributes
    ----------
    removable : ndarray [L] of bool
        False for protected layers.
    protected : dict of int to str
        Why they are.
    max_remove : int
        The most layers that can be asked for.
    baseline : float
        Score of the model with all its layers, on the text that values are estimated on.
    drawn : DrawnMasks
        What values are estimated from.
    masks, scores : ndarray [M, L], [M]
        What was drawn, repetitions included, then what only the selector evaluated; each score on as much text as the
        mask was scored on.
    finite : ndarray [M] of bool
        Where the score is.
    searched, searched_scores : ndarray [N, L], [N]
        The sets a selector chooses among: scored on all searched text, finite.
    final : FinalChoice or None
        On the text held back, if any was.
    precision : PrecisionCheck or None
        What the model's precision leaves open in it; None where it is float32, or nothing was held back.
    keep_one_of : tuple of tuple of int
        Groups of layers of which one must stay.
    value_run_tokens : int
        Layer runs times tokens of what was drawn, before any search.
    """

    removable: MaskArray
    protected: dict[int, str]
    max_remove: int
    baseline: float
    drawn: DrawnMasks
    masks: MaskArray
    scores: FloatArray
    finite: MaskArray
    searched: MaskArray
    searched_scores: FloatArray
    final: FinalChoice | None
    precision: PrecisionCheck | None
    keep_one_of: tuple[tuple[int, ...], ...]
    value_run_tokens: int


def evaluate_masks(game: TextGame, settings: FitSettings, rng: np.random.Generator) -> Evidence:
    """Draw and score masks for the values, let the selector search, and make the final choice.

    Raises
    ------
    ValueError
        Too few masks, no two finite scores, or scores that are all the same.
    """
    selector = settings.selector
    protected = game.found.protected(settings.protect)
    removable = game.found.removable(settings.protect)
    n_players = int(removable.sum())
    searches = isinstance(selector, SearchingSelector)
    limit = check_max_remove(settings.max_remove, settings.n_remove if searches else None, removable)
    if settings.n_remove is not None:
        check_n_remove(settings.n_remove, removable)
    keep_veto = settings.values.keep_veto
    total, n_drawn = share_masks(settings.n_masks, selector, n_players, limit, keep_veto=keep_veto)
    try_sampler(settings.sampler, n_players, n_drawn)
    game.progress.expect(total)
    whole = np.ones((1, game.n_players), dtype=bool)
    baseline = float(game.scores(whole, game.text.n_value_parts)[0])
    if not np.isfinite(baseline):
        raise ValueError(
            f"the model with all its layers has no finite score on this text ({score_name(game.utility)}: {baseline}): "
            "is the model sound, in this precision?"
        )
    drawn = draw_masks(game, settings, removable, n_drawn, rng)
    value_run_tokens = game.layer_run_tokens
    record = RemovableGame(
        game,
        removable,
        total - _further(drawn, removable),
        keep_one_of=game.keep_one_of,
        confidence=settings.confidence,
        n_parts=len(game.text.searched),
    )
    if isinstance(selector, SearchingSelector) and np.isfinite(drawn.scores).any():
        selector.search(record, settings.surrogate, limit, rng)
    masks, scores = _together(drawn, record)
    finite = finite_scores(masks, scores)
    if np.ptp(scores[finite]) == 0:
        raise ValueError(
            f"all {len(first_rows(masks))} masked models score {scores[finite][0]:g}: the utility does not tell "
            "one set of layers from another. A constant function? Too few calibration tokens for a count of hits?"
        )
    choosable = np.isfinite(record.scores) & record.complete
    searched, searched_scores = record.widened(record.masks[choosable]), record.scores[choosable]
    if not searches:
        searched, searched_scores = masks[finite], scores[finite]
    possible = allowed(searched, game.keep_one_of)
    final = final_choice(game, searched[possible], searched_scores[possible], limit) if searches else None
    final, precision = (None, None) if final is None else check_precision(game, final)
    most = limit if searches else most_removable(n_players, len(removable))
    return Evidence(
        removable=removable,
        protected=protected,
        max_remove=most,
        baseline=baseline,
        drawn=drawn,
        masks=masks,
        scores=scores,
        finite=finite,
        searched=searched,
        searched_scores=searched_scores,
        final=final,
        precision=precision,
        keep_one_of=game.keep_one_of,
        value_run_tokens=value_run_tokens,
    )


def _further(drawn: DrawnMasks, removable: MaskArray) -> int:
    """Distinct masks drawn beyond the leave-one-outs, which a search evaluates too."""
    masks = np.concatenate([drawn.masks[drawn.n_known :], drawn.veto_masks.reshape(-1, len(removable))])
    return len(first_rows(masks[(~masks).sum(axis=1) > 1]))


def _together(drawn: DrawnMasks, record: RemovableGame) -> tuple[MaskArray, FloatArray]:
    """What was drawn, then what only the selector evaluated; without the model as it is."""
    masks = np.concatenate([drawn.masks, drawn.beside, drawn.veto_masks.reshape(-1, drawn.masks.shape[1])])
    scores = np.concatenate([drawn.scores, drawn.beside_scores, drawn.veto_scores.reshape(-1)])
    start = min(drawn.n_known, 1)  # the model as it is, where it is among them
    searched = record.widened(record.masks)
    new = ~is_among(searched, set(mask_keys(masks)))
    return np.concatenate([masks[start:], searched[new]]), np.concatenate([scores[start:], record.scores[new]])

"""From a game to evaluated masks: what is drawn at random for the values, then what the selector searches.

Shapes: M masks, L layers, P players (removable layers), B resamples of the calibration sequences.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from layershap.exceptions import TiedSelectionWarning
from layershap.fitting.drawn import DrawnMasks, draw_masks
from layershap.fitting.final_choice import FinalChoice, final_choice
from layershap.fitting.masks import finite_scores, share_masks
from layershap.fitting.record import RecordedGame
from layershap.fitting.request import Request
from layershap.fitting.text import TextParts
from layershap.fitting.text_game import TextGame
from layershap.game import LayerGame
from layershap.limits import check_max_remove, check_n_remove
from layershap.model.stack import check_layer_indices
from layershap.protocols import (
    FloatArray,
    IntArray,
    MaskArray,
    SearchingSelector,
)
from layershap.surrogates import HammingProcess
from layershap.utilities.naming import score_name

_VALUE_SEQUENCES = 16
"""Sequences, at least, that values are estimated on where a search races its sets on parts of the text."""


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


def value_parts(text: TextParts) -> int:
    """How many parts of the text values are estimated on."""
    total = 0
    for count, part in enumerate(text.searched, start=1):
        total += part.n_sequences
        if total >= _VALUE_SEQUENCES:
            return count
    return len(text.searched)


def gather(game: TextGame, text: TextParts, request: Request, rng: np.random.Generator) -> Evidence:
    """Draw and score masks for the values, let the selector search, and make the final choice.

    Raises
    ------
    ValueError
        Too few masks, no two finite scores, or scores that are all the same.
    """
    selector = request.selector
    protected, removable = protected_layers(game.first, request.protect)
    n_players = int(removable.sum())
    searches = isinstance(selector, SearchingSelector)
    limit = check_max_remove(request.max_remove, request.n_remove if searches else None, removable)
    if request.n_remove is not None:
        check_n_remove(request.n_remove, removable)
    total, n_drawn = share_masks(request.n_masks, selector, n_players, limit, keep_veto=request.keep_veto)
    game.progress.expect(total)
    n_parts = value_parts(text)
    baseline = float(game.scores(np.ones((1, game.n_players), dtype=bool), n_parts)[0])
    if not np.isfinite(baseline):
        raise ValueError(
            f"the model with all its layers has no finite score on this text ({score_name(game.utility)}: {baseline}): "
            "is the model sound, in this precision?"
        )
    drawn = draw_masks(
        game,
        request.sampler,
        removable,
        n_drawn,
        n_parts,
        request.weights,
        keep_veto=request.keep_veto,
        leave_one_outs=searches,
        rng=rng,
    )
    record = RecordedGame(
        game,
        removable,
        total - _further(drawn, removable),
        game.keep_one_of,
        request.confidence,
        len(text.searched),
    )
    if isinstance(selector, SearchingSelector) and np.isfinite(drawn.scores).any():
        # Which surrogate is best shows once all is evaluated.
        surrogate = HammingProcess() if isinstance(request.surrogate, str) else request.surrogate
        selector.search(record, surrogate, limit, rng)
    masks, scores = _together(drawn, record)
    finite = finite_scores(masks, scores)
    if np.ptp(scores[finite]) == 0:
        raise ValueError(
            f"all {len(np.unique(masks, axis=0))} masked models score {scores[finite][0]:g}: the utility does not tell "
            "one set of layers from another. A constant function? Too few calibration tokens for a count of hits?"
        )
    choosable = np.isfinite(record.scores) & record.complete
    searched, searched_scores = record.widened(record.masks[choosable]), record.scores[choosable]
    if not searches:
        searched, searched_scores = masks[finite], scores[finite]
    allowed = _allowed(searched, game.keep_one_of)
    final = (
        final_choice(game, searched[allowed], searched_scores[allowed], limit, len(text.searched)) if searches else None
    )
    most = limit if searches else min(n_players, len(removable) - 1)
    return Evidence(
        removable, protected, most, baseline, drawn, masks, scores, finite, searched, searched_scores, final
    )


def _further(drawn: DrawnMasks, removable: MaskArray) -> int:
    """Distinct masks drawn beyond the leave-one-outs, which a search evaluates too."""
    masks = np.concatenate([drawn.masks[drawn.n_known :], drawn.veto_masks.reshape(-1, len(removable))])
    return len(np.unique(masks[(~masks).sum(axis=1) > 1], axis=0))


def _together(drawn: DrawnMasks, record: RecordedGame) -> tuple[MaskArray, FloatArray]:
    """What was drawn, then what only the selector evaluated; without the model as it is."""
    masks = np.concatenate([drawn.masks, drawn.beside, drawn.veto_masks.reshape(-1, drawn.masks.shape[1])])
    scores = np.concatenate([drawn.scores, drawn.beside_scores, drawn.veto_scores.reshape(-1)])
    start = min(drawn.n_known, 1)  # the model as it is, where it is among them
    seen = {mask.tobytes() for mask in masks}
    searched = record.widened(record.masks)
    new = np.array([mask.tobytes() not in seen for mask in searched], dtype=bool).reshape(-1)
    return np.concatenate([masks[start:], searched[new]]), np.concatenate([scores[start:], record.scores[new]])


def _allowed(masks_ML: MaskArray, groups: Sequence[Sequence[int]]) -> MaskArray:
    """Which masks stand for sets that the model can lose [M]."""
    return np.all([masks_ML.any(axis=1), *(masks_ML[:, list(group)].any(axis=1) for group in groups)], axis=0)


def protected_layers(game: LayerGame, protect: Sequence[int]) -> tuple[dict[int, str], MaskArray]:
    """Protected layers with the reason, and which layers are removable [L]."""
    protected = {
        **game.unremovable,
        **dict.fromkeys(check_layer_indices(protect, game.n_players), "named in protect"),
    }
    removable = np.ones(game.n_players, dtype=bool)
    removable[list(protected)] = False
    return protected, removable


def removal_scores(evidence: Evidence, choose: Callable[[int], Sequence[int] | IntArray]) -> FloatArray:
    """Scores [N] of the sets that are removed: on text held back, else on all that was searched; NaN if unknown."""
    known = {mask.tobytes(): score for mask, score in zip(evidence.searched, evidence.searched_scores, strict=True)}
    found = np.full(evidence.max_remove, np.nan)
    for n_remove in range(1, evidence.max_remove + 1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TiedSelectionWarning)
                chosen = choose(n_remove)
        except ValueError:  # a selector need not be able to do every number
            continue
        mask = ~np.isin(np.arange(len(evidence.removable)), chosen)
        compared = None if evidence.final is None else evidence.final.comparisons[n_remove - 1]
        if evidence.final is not None and compared and (evidence.final.masks[n_remove - 1] == mask).all():
            found[n_remove - 1] = compared.score
        else:
            found[n_remove - 1] = known.get(mask.tobytes(), np.nan)
    return found


def diagnostics_of(game: TextGame, text: TextParts, evidence: Evidence) -> dict[str, Any]:
    """What the evaluation took and how it went, for ``diagnostics_``."""
    calibration = game.first.calibration
    held = text.held_back
    drawn = evidence.drawn
    n_drawn = len(drawn.masks) - min(drawn.n_known, 1) + len(drawn.beside) + drawn.veto_scores.size
    return {
        "n_evaluated": game.n_evaluated,
        "n_non_finite": int((~evidence.finite).sum()),
        "layer_runs": round(game.layer_runs),
        "layer_run_tokens": game.layer_run_tokens,
        "n_drawn": n_drawn,
        "n_searched": len(evidence.masks) - n_drawn,
        "veto_players": [int(layer) for layer in np.flatnonzero(evidence.drawn.veto)],
        "utility": score_name(game.utility),
        "path": game.first.path,
        "path_note": game.first.path_note,
        "calibration": {
            **calibration.provenance,
            "n_sequences": text.n_searched + (held.n_sequences if held else 0),
            "seq_len": calibration.seq_len,
            "n_searched": text.n_searched,
            "n_held_back": held.n_sequences if held else 0,
            "n_for_values": sum(part.n_sequences for part in text.searched[: value_parts(text)]),
        },
        "protected": evidence.protected,
    }

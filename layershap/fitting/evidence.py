"""From a game to evaluated masks: the sampler draws, then the selector searches, within one budget.

Shapes: M masks, L layers, P players (removable layers), B resamples of the calibration sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.base import clone

from layershap.fitting.masks import check_max_remove, evaluate_masks, finite_scores, share_masks
from layershap.fitting.record import LayerRunLimit, RecordedGame, mean_layer_runs
from layershap.fitting.resampling import resampled_scores
from layershap.game import LayerGame
from layershap.model.stack import check_layer_indices
from layershap.protocols import FloatArray, MaskArray, Sampler, SearchingSelector, Selector, Surrogate
from layershap.samplers import strata_of
from layershap.surrogates import PairwiseRidge
from layershap.utilities.naming import score_name

N_RESAMPLES = 200
"""Bootstrap resamples of the calibration sequences: a probability of 0.5 is then known to 0.035."""


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
        Score of the model with all its layers.
    masks, scores : ndarray [M, L], [M]
        The sampler's draws, repetitions included, then what the selector evaluated.
    finite : ndarray [M] of bool
        Where the score is.
    strata : list of int
        The sampler's numbers of kept players.
    resampled : ndarray [B, F]
        Scores of the F finite masks on resampled calibration sequences.
    """

    removable: MaskArray
    protected: dict[int, str]
    max_remove: int
    baseline: float
    masks: MaskArray
    scores: FloatArray
    finite: MaskArray
    strata: list[int]
    resampled: FloatArray

    def allowed(self, keep_one_of: Sequence[Sequence[int]]) -> MaskArray:
        """Which masks stand for sets that the model can lose [M]."""
        return np.all([self.masks.any(axis=1), *(self.masks[:, list(g)].any(axis=1) for g in keep_one_of)], axis=0)


def gather(
    game: LayerGame,
    sampler: Sampler,
    surrogate: Surrogate | Literal["auto"],
    selector: Selector,
    *,
    protect: Sequence[int],
    n_masks: int | None,
    max_layer_runs: float | None,
    max_remove: int | None,
    n_remove: int | None,
    rng: np.random.Generator,
) -> Evidence:
    """Evaluate the sampler's masks, then the selector's.

    Parameters are those of `LayerPruner`; `max_layer_runs` is its budget over the calibration tokens.

    Raises
    ------
    ValueError
        Too small a budget, no two finite scores, or scores that are all the same.
    """
    protected, removable = protected_layers(game, protect)
    n_players = int(removable.sum())
    searches = isinstance(selector, SearchingSelector)
    limit = check_max_remove(max_remove, n_remove if searches else None, removable)
    if n_masks is None and max_layer_runs is not None:
        n_masks = int((max_layer_runs - game.n_players) // mean_layer_runs(game.n_players))
    total, n_sampled = share_masks(n_masks, selector, n_players, limit)
    game.progress.expect(total)
    baseline = float(game(np.ones((1, game.n_players), dtype=bool))[0])
    within = None if max_layer_runs is None else LayerRunLimit(game, max_layer_runs)
    record = RecordedGame(game, removable, total, game.keep_one_of, within)
    # A sampler learns in rounds; the user's own stays as it is.
    sampler = clone(sampler) if hasattr(sampler, "get_params") else sampler
    required = selector.n_required(n_players, limit) if isinstance(selector, SearchingSelector) else 0
    players, scores = evaluate_masks(record, sampler, n_sampled, rng, n_reserved=required)
    n_drawn = len(players)
    if isinstance(selector, SearchingSelector) and (not len(scores) or np.isfinite(scores).any()):
        n_before = len(record.masks)
        # Which surrogate is best shows once all is evaluated; for proposing sets the pairwise one is.
        selector.search(record, PairwiseRidge() if isinstance(surrogate, str) else surrogate, limit, rng)
        players = np.concatenate([players, record.masks[n_before:]])
        scores = np.concatenate([scores, record.scores[n_before:]])
    strata = strata_of(sampler, players[:n_drawn] if n_drawn else players)
    masks = record.widened(players)
    finite = finite_scores(masks, scores)
    if np.ptp(scores[finite]) == 0:
        raise ValueError(
            f"all {len(np.unique(masks, axis=0))} masked models score {scores[finite][0]:g}: the utility does not tell "
            "one set of layers from another. A constant function? Too few calibration tokens for a count of hits?"
        )
    most = limit if searches else min(n_players, len(removable) - 1)
    resampled = resampled_scores(game, masks[finite], N_RESAMPLES, rng)
    return Evidence(removable, protected, most, baseline, masks, scores, finite, strata, resampled)


def protected_layers(game: LayerGame, protect: Sequence[int]) -> tuple[dict[int, str], MaskArray]:
    """Protected layers with the reason, and which layers are removable [L]."""
    protected = {
        **game.unremovable,
        **dict.fromkeys(check_layer_indices(protect, game.n_players), "named in protect"),
    }
    removable = np.ones(game.n_players, dtype=bool)
    removable[list(protected)] = False
    return protected, removable


def diagnostics_of(game: LayerGame, evidence: Evidence) -> dict[str, Any]:
    """What the evaluation took and how it went, for ``diagnostics_``."""
    calibration = game.calibration
    return {
        "n_evaluated": game.n_evaluated,
        "n_non_finite": int((~evidence.finite).sum()),
        "layer_runs": game.layer_runs,
        "layer_run_tokens": game.layer_runs_charged * calibration.n_sequences * calibration.seq_len,
        "utility": score_name(game.utility),
        "path": game.path,
        "path_note": game.path_note,
        "calibration": {
            **calibration.provenance,
            "n_sequences": calibration.n_sequences,
            "seq_len": calibration.seq_len,
        },
        "protected": evidence.protected,
    }

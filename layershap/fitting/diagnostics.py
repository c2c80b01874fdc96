"""What a fit took and how it went: `LayerPruner.diagnostics_`.

Shapes: L layers.
"""

from __future__ import annotations

import logging
from typing import Any, TypedDict

import numpy as np

from layershap.fitting.contributions import Contributions
from layershap.fitting.evidence import Evidence
from layershap.fitting.precision import PrecisionCheck
from layershap.fitting.quality import Doubt
from layershap.fitting.text_game import TextGame
from layershap.protocols import FloatArray
from layershap.surrogates import BestSurrogate
from layershap.utilities.naming import score_name

_logger = logging.getLogger(__name__)


class Diagnostics(TypedDict):
    """Cost and quality of a fit.

    Attributes
    ----------
    n_evaluated : int
        Number of distinct masks run on the model by this process, on the first part of the text; the whole model is
        among them and, where veto players are looked for, the empty one; ``n_masks`` counts neither.
    n_drawn, n_searched : int
        Numbers of masks drawn at random for the values, and of masks that only the selector asked for.
    n_non_finite : int
        Number of masks without a finite score.
    layer_runs : int
        Number of layer runs of this process, as if each were on the whole text.
    layer_run_tokens : int
        Layer runs times tokens in all, those that a ledger supplied included.
    value_run_tokens : int
        Those of the masks that the values are estimated from, part of `layer_run_tokens`.
    seconds : float
        Wall-clock time of the fit.
    path, path_note : str
        Forward that scored the masks, 'fused', 'plain' or 'callable', and the reason why it is not the fused one.
    utility : str
        Name of the score.
    calibration : dict
        Provenance of the text, with ``n_sequences``, ``seq_len``, ``n_searched``, ``n_held_back``, ``n_for_values``.
    protected : dict of int to str
        Layers that stay, with the reason.
    veto_players : list of int
        Layers without which the model is lost.
    held_out_r2, held_out_spearman : float
        Agreement of the surrogate with the scores of masks drawn at random that it has not seen.
    held_out_strata : list of dict
        The same for each number of kept layers (`layershap.fitting.heldout.HeldOut`).
    surrogate_choice : dict of str to float
        Held-out R2 of the candidates, if the surrogate was chosen among several.
    mask_errors, calibration_errors : ndarray [L]
        Standard errors of the values by the masks drawn, and by the text.
    strata : tuple of int or None
        Numbers of kept free players that the values average over; None for all.
    unbiased : bool
        Whether the values were corrected by the surrogate's errors.
    missing_sizes : list of int
        Numbers of kept players that enter the values and of which no mask was drawn.
    doubtful : list of int
        Layers whose value contradicts their leave-one-out beyond two standard errors.
    doubts : list of str
        Why values or surrogate can't be trusted, and what to do about it: the sentences of `ValueQualityWarning` and
        `SurrogateQualityWarning`.
    precision : PrecisionCheck or None
        What half precision leaves open in the final choice (`layershap.fitting.precision.PrecisionCheck`); None for a
        model in float32, and where no text was held back.
    """

    n_evaluated: int
    n_drawn: int
    n_searched: int
    n_non_finite: int
    layer_runs: int
    layer_run_tokens: int
    value_run_tokens: int
    seconds: float
    path: str
    path_note: str
    utility: str
    calibration: dict[str, Any]
    protected: dict[int, str]
    veto_players: list[int]
    held_out_r2: float
    held_out_spearman: float
    held_out_strata: list[dict[str, float]]
    surrogate_choice: dict[str, float]
    mask_errors: FloatArray
    calibration_errors: FloatArray
    strata: tuple[int, ...] | None
    unbiased: bool
    missing_sizes: list[int]
    doubtful: list[int]
    doubts: list[str]
    precision: PrecisionCheck | None


def diagnose(
    game: TextGame, evidence: Evidence, contributions: Contributions, doubts: list[Doubt], seconds: float
) -> Diagnostics:
    """Collect the diagnostics of a fit that took so many seconds."""
    text = game.text
    drawn = evidence.drawn
    n_drawn = len(drawn.masks) - min(drawn.n_known, 1) + len(drawn.beside) + drawn.veto_scores.size
    fit = contributions.fit
    return {
        "n_evaluated": game.n_evaluated,
        "n_drawn": n_drawn,
        "n_searched": len(evidence.masks) - n_drawn,
        "n_non_finite": int((~evidence.finite).sum()),
        "layer_runs": round(game.layer_runs),
        "layer_run_tokens": game.layer_run_tokens,
        "value_run_tokens": evidence.value_run_tokens,
        "seconds": seconds,
        "path": game.first.path,
        "path_note": game.first.path_note,
        "utility": score_name(game.utility),
        "calibration": {
            **game.first.calibration.provenance,
            "n_sequences": text.n_searched + (text.held_back.n_sequences if text.held_back else 0),
            "seq_len": game.first.calibration.seq_len,
            "n_searched": text.n_searched,
            "n_held_back": text.held_back.n_sequences if text.held_back else 0,
            "n_for_values": sum(part.n_sequences for part in text.searched[: text.n_value_parts]),
        },
        "protected": evidence.protected,
        "veto_players": [int(layer) for layer in np.flatnonzero(drawn.veto)],
        "held_out_r2": fit.held_out.r2,
        "held_out_spearman": fit.held_out.spearman,
        "held_out_strata": fit.held_out.strata,
        "surrogate_choice": fit.surrogate.scores_ if isinstance(fit.surrogate, BestSurrogate) else {},
        "mask_errors": contributions.mask_errors,
        "calibration_errors": contributions.calibration_errors,
        "strata": fit.settings.strata,
        "unbiased": fit.settings.unbiased,
        "missing_sizes": list(fit.missing),
        "doubtful": contributions.doubtful,
        "doubts": [message for message, _ in doubts],
        "precision": evidence.precision,
    }


def log_cost(found: Diagnostics) -> None:
    """One line in the log, when a fit is done."""
    _logger.info(
        "%(n_evaluated)d masks evaluated, the whole model (and the empty one, where veto players are looked for) among "
        "them, in %(layer_runs)d layer runs (%(path)s forward), %(seconds).1f s; the surrogate's R2 on held-out masks: "
        "%(held_out_r2).3f",
        found,
    )

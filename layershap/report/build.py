"""From a fitted `LayerPruner` to the records of its report.

Shapes: L layers, M masks.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from layershap.masks import without
from layershap.places import public_name
from layershap.protocols import FloatArray, MaskArray
from layershap.report.records import (
    CalibrationRecord,
    ComparisonRecord,
    CostRecord,
    FitRecord,
    LayerRecord,
    RemovalRecord,
    SurrogateRecord,
)

if TYPE_CHECKING:
    from layershap.fitting.fitted import FittedPruner


def fit_record(pruner: FittedPruner) -> FitRecord:
    """What was fitted, and with which settings."""
    model = pruner.inspection_
    settings = {name: repr(value) for name, value in pruner.get_params(deep=False).items()}
    if pruner.ledger is not None:
        settings["ledger"] = repr(public_name(os.fspath(pruner.ledger)))
    return FitRecord(
        model_name=model.name,
        model_class=model.model_class,
        layers_path=model.path,
        dtype=str(pruner.fingerprint_["dtype"]),
        granularity=str(pruner.fingerprint_["granularity"]),
        weights_digest=str(pruner.fingerprint_["weights"]),
        n_parameters=model.n_parameters,
        n_bytes=model.n_bytes,
        utility=pruner.diagnostics_["utility"],
        baseline_score=pruner.baseline_score_,
        settings=settings,
    )


def layer_records(pruner: FittedPruner) -> tuple[LayerRecord, ...]:
    """One record per layer [L]."""
    rank = np.argsort(pruner.removal_order_)
    protected = pruner.diagnostics_["protected"]
    return tuple(
        LayerRecord(
            index=layer.index,
            name=layer.name,
            mixer=layer.mixer,
            feed_forward=layer.feed_forward,
            n_parameters=layer.n_parameters,
            n_bytes=layer.n_bytes,
            removable=bool(pruner.removable_[layer.index]),
            reason=protected.get(layer.index, ""),
            contribution=_player_value(pruner, pruner.contributions_, layer.index),
            standard_error=_player_value(pruner, pruner.contributions_std_, layer.index),
            removal_rank=int(rank[layer.index]) + 1,
            remark=_remark(pruner, layer.index),
        )
        for layer in pruner.inspection_.layers
    )


def _remark(pruner: FittedPruner, layer: int) -> str:
    if layer in pruner.veto_players_:
        return "veto player"
    return "in doubt" if layer in pruner.diagnostics_["doubtful"] else ""


def _player_value(pruner: FittedPruner, values_L: FloatArray, layer: int) -> float | None:
    return float(values_L[layer]) if pruner.removable_[layer] else None


def removal_records(pruner: FittedPruner) -> tuple[RemovalRecord, ...]:
    """One record for each number of layers that the pruner can remove."""
    records = []
    scores = pruner.removal_scores_
    for n_remove in range(1, pruner.max_remove_ + 1):
        layers = pruner.removed_layers(n_remove)
        mask_L = without(layers, pruner.n_layers_in_)
        # Of the sets that the selector of the fit chose: another selector may have been set since.
        same = layers == pruner.result_.sets[n_remove - 1]
        sure = pruner.removal_probabilities_[n_remove - 1, layers]
        freed = [pruner.inspection_.layers[layer] for layer in layers]
        records.append(
            RemovalRecord(
                n_remove=n_remove,
                layers=tuple(layers),
                probabilities=None if not same or np.isnan(sure).any() else tuple(sure.tolist()),
                score=_known(scores[n_remove - 1]),
                comparison=_comparison(pruner, mask_L) if same else None,
                predicted_score=_predicted(pruner, mask_L),
                n_parameters=pruner.inspection_.n_parameters - sum(layer.n_parameters for layer in freed),
                n_bytes=pruner.inspection_.n_bytes - sum(layer.n_bytes for layer in freed),
            )
        )
    return tuple(records)


def _comparison(pruner: FittedPruner, mask_L: MaskArray) -> ComparisonRecord | None:
    row = int((~mask_L).sum()) - 1
    found = None if pruner.comparisons_ is None else pruner.comparisons_[row]
    # A selector of the user's may have chosen another set than the text held back did.
    if found is None or pruner.final_masks_ is None or (pruner.final_masks_[row] != mask_L).any():
        return None
    return ComparisonRecord(
        score_error=found.score_error,
        over_greedy=found.over_greedy,
        over_greedy_error=found.over_greedy_error,
        over_second=found.over_second,
        over_second_error=found.over_second_error,
    )


def _known(score: float) -> float | None:
    return None if np.isnan(score) else float(score)


def _predicted(pruner: FittedPruner, mask_L: MaskArray) -> float:
    return float(np.asarray(pruner.surrogate_.predict(mask_L[None, pruner.removable_]))[0])


def surrogate_record(pruner: FittedPruner) -> SurrogateRecord:
    """The surrogate with its held-out predictions."""
    finite = np.isfinite(pruner.scores_) & np.isfinite(pruner.predictions_)
    interactions = None if pruner.interactions_ is None else pruner.interactions_[np.ix_(*2 * [pruner.removable_])]
    return SurrogateRecord(
        name=repr(pruner.surrogate_),
        held_out_r2=pruner.diagnostics_["held_out_r2"],
        held_out_spearman=pruner.diagnostics_["held_out_spearman"],
        n_removed=tuple(int(count) for count in (~pruner.masks_[finite]).sum(axis=1)),
        scores=tuple(float(score) for score in pruner.scores_[finite]),
        predictions=tuple(float(score) for score in pruner.predictions_[finite]),
        interactions=None if interactions is None else tuple(tuple(float(c) for c in row) for row in interactions),
    )


def calibration_record(pruner: FittedPruner) -> CalibrationRecord:
    """The calibration text's provenance."""
    provenance = dict(pruner.diagnostics_["calibration"])
    return CalibrationRecord(
        n_sequences=provenance.pop("n_sequences"),
        seq_len=provenance.pop("seq_len"),
        digest=str(pruner.fingerprint_["calibration"]),
        provenance=provenance,
        final_sequences=provenance["n_held_back"] or None,
    )


def cost_record(pruner: FittedPruner) -> CostRecord:
    """What the fit took."""
    found = pruner.diagnostics_
    # What was scored to look for veto players begins with the coalition of no layers, which `n_masks` doesn't count.
    n_empty = min(len(pruner.result_.evidence.drawn.beside), 1)
    return CostRecord(
        n_masks=len(pruner.masks_) - n_empty,
        n_evaluated=found["n_evaluated"],
        layer_runs=found["layer_runs"],
        layer_run_tokens=float(found["layer_run_tokens"]),
        n_for_values=found["n_drawn"] - n_empty,
        value_run_tokens=float(found["value_run_tokens"]),
        seconds=found["seconds"],
        path=found["path"],
        path_note=found["path_note"],
    )

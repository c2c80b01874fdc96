"""From a fit, or from its report, to the curve from which a number of layers is chosen.

Shapes: M masks.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from layershap.exceptions import TiedSelectionWarning
from layershap.report.build import fit_record, removal_records
from layershap.report.outcome import PruningOutcome
from layershap.report.records import FitRecord, RemovalRecord
from layershap.speed import SpeedRecord
from layershap.targets import RemovalCurve, RemovalPoint, RemovalSpeed
from layershap.utilities import PerplexityRatio
from layershap.utilities.naming import score_name

if TYPE_CHECKING:
    from layershap.fitting.fitted import FittedPruner
    from layershap.report.report import PruningReport


def curve_of_pruner(pruner: FittedPruner) -> RemovalCurve:
    """The curve of a fitted pruner, without speeds."""
    with warnings.catch_warnings():
        # The user has not asked for a set yet.
        warnings.simplefilter("ignore", TiedSelectionWarning)
        removals = removal_records(pruner)
    names = [layer.name for layer in pruner.inspection_.layers]
    n_removed_M = (~pruner.masks_).sum(axis=1).tolist()
    errors = prediction_errors(n_removed_M, pruner.scores_.tolist(), pruner.predictions_.tolist())
    return _curve(removals, names, fit_record(pruner), errors)


def curve_of_report(report: PruningReport) -> RemovalCurve:
    """The curve of a report, with the speeds of its measured outcomes if there are any."""
    found = report.surrogate
    errors = prediction_errors(found.n_removed, found.scores, found.predictions)
    curve = _curve(report.removals, [layer.name for layer in report.layers], report.fit, errors)
    return curve.with_speed(outcome_speed(report.outcomes))


def outcome_speed(outcomes: Sequence[PruningOutcome]) -> RemovalSpeed | None:
    """Speed by depth from measured outcomes: those on the machine, and at the sizes, of the last one that has speeds.

    The whole model was measured beside each; its median is taken.
    """
    timed = [outcome for outcome in outcomes if outcome.after.speed]
    if not timed:
        return None
    last = timed[-1]
    records: dict[int, list[SpeedRecord]] = {}
    for outcome in timed:
        if outcome.environment == last.environment:
            for n_remove, model in ((0, outcome.before), (len(outcome.removed), outcome.after)):
                same = [speed for speed in model.speed if _sizes(speed) == _sizes(last.after.speed[0])]
                records.setdefault(n_remove, []).extend(same)
    by_depth = {n_remove: _middle(found) for n_remove, found in sorted(records.items()) if found}
    return RemovalSpeed(tuple(by_depth), tuple(by_depth.values()), last.environment)


def prediction_errors(
    n_removed_M: Sequence[int], scores_M: Sequence[float], predictions_M: Sequence[float]
) -> Mapping[int, float]:
    """Root mean square error of held-out predictions, for each number of removed layers that masks were drawn of."""
    squares: dict[int, list[float]] = {}
    for n_removed, score, prediction in zip(n_removed_M, scores_M, predictions_M, strict=True):
        if np.isfinite(score) and np.isfinite(prediction):
            squares.setdefault(n_removed, []).append((score - prediction) ** 2)
    return {n_removed: float(np.sqrt(np.mean(found))) for n_removed, found in squares.items()}


def _curve(
    removals: Sequence[RemovalRecord], names: Sequence[str], fit: FitRecord, errors: Mapping[int, float]
) -> RemovalCurve:
    is_ratio = scores_are_perplexity_ratios(fit)
    whole = RemovalPoint(
        n_remove=0,
        layers=(),
        names=(),
        n_parameters=fit.n_parameters,
        n_bytes=fit.n_bytes,
        score=fit.baseline_score,
        perplexity_increase=0.0 if is_ratio else None,
    )
    points = [_point(removal, names, errors.get(removal.n_remove), is_ratio) for removal in removals]
    return RemovalCurve((whole, *sorted(points, key=lambda point: point.n_remove)), fit.utility, fit.granularity)


def _point(removal: RemovalRecord, names: Sequence[str], rmse: float | None, is_ratio: bool) -> RemovalPoint:
    compared = removal.comparison
    if removal.score is None:
        score, error, scored_on = removal.predicted_score, rmse, "predicted"
    elif compared is None:
        score, error, scored_on = removal.score, None, "searched"
    else:
        score, error, scored_on = removal.score, compared.score_error, "held back"
    increase, increase_error = perplexity_increase(score, error) if is_ratio else (None, None)
    return RemovalPoint(
        n_remove=removal.n_remove,
        layers=removal.layers,
        names=tuple(names[layer] for layer in removal.layers),
        n_parameters=removal.n_parameters,
        n_bytes=removal.n_bytes,
        score=score,
        score_error=error,
        scored_on=scored_on,
        perplexity_increase=increase,
        perplexity_increase_error=increase_error,
        least_sure=None if removal.probabilities is None else min(removal.probabilities),
        over_greedy=None if compared is None else compared.over_greedy,
        over_greedy_error=None if compared is None else compared.over_greedy_error,
    )


def scores_are_perplexity_ratios(fit: FitRecord) -> bool:
    """Whether a fit's scores are the whole model's perplexity over the pruned one's."""
    return fit.utility == score_name(PerplexityRatio())


def perplexity_increase(ratio: float, error: float | None) -> tuple[float, float | None]:
    """Percent by which the perplexity is higher, from the whole model's over the pruned one's, and its error.

    The error is that of the ratio, carried over to first order. A predicted ratio may be 0 or less: no bound then.
    """
    if not ratio > 0:
        return float("inf"), None
    return 100 * (1 / ratio - 1), None if error is None else 100 * error / ratio**2


def _sizes(speed: SpeedRecord) -> tuple[int, int, int]:
    return speed.batch_size, speed.prompt_tokens, speed.new_tokens


def _middle(records: Sequence[SpeedRecord]) -> SpeedRecord:
    """The record of the median prefill (the lower of two)."""
    return sorted(records, key=lambda record: record.prefill_seconds)[(len(records) - 1) // 2]

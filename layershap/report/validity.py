"""Whether the parts of a report that was read from a file agree with each other.

A file is data that anyone may have changed: what names layers must name layers of this model, so that nothing else is
removed than what the report says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layershap.exceptions import ReportFormatError
from layershap.report.outcome import GenerationRecord, PruningOutcome
from layershap.report.records import RemovalRecord, SurrogateRecord

if TYPE_CHECKING:
    from layershap.report.report import PruningReport


def check_report(report: PruningReport, where: str) -> None:
    """Raise unless the report's parts agree.

    Parameters
    ----------
    report : PruningReport
        As read.
    where : str
        What messages call it: its file.

    Raises
    ------
    ReportFormatError
        They don't; the message names the field.
    """
    fit, text = report.fit, report.calibration
    granularities = ("layer", "sublayer")
    _expect(fit.granularity in granularities, f"{where}.fit.granularity", f"one of {granularities}", fit.granularity)
    for name, count in (
        ("fit.n_parameters", fit.n_parameters),
        ("calibration.n_sequences", text.n_sequences),
        ("calibration.seq_len", text.seq_len),
    ):
        _expect(count >= 1, f"{where}.{name}", "at least 1", count)
    for i, layer in enumerate(report.layers):
        _expect(layer.index == i, f"{where}.layers[{i}].index", f"its place in the list, {i}", layer.index)
        _expect(
            layer.removable == (layer.contribution is not None) == (layer.standard_error is not None),
            f"{where}.layers[{i}]",
            "an object with a contribution and a standard_error exactly if the layer is removable",
            layer,
        )
    counts = [removal.n_remove for removal in report.removals]
    _expect(len(counts) == len(set(counts)), f"{where}.removals", "removals of different n_remove", counts)
    for i, removal in enumerate(report.removals):
        _check_removal(removal, report, f"{where}.removals[{i}]")
    _check_surrogate(report.surrogate, sum(layer.removable for layer in report.layers), f"{where}.surrogate")
    for i, outcome in enumerate(report.outcomes):
        _check_outcome(outcome, len(report.layers), f"{where}.outcomes[{i}]")


def _check_removal(removal: RemovalRecord, report: PruningReport, where: str) -> None:
    _check_layers(removal.layers, len(report.layers), f"{where}.layers")
    n_remove = removal.n_remove
    _expect(len(removal.layers) == n_remove, f"{where}.layers", f"n_remove={n_remove} layers", removal.layers)
    kept = [layer for layer in removal.layers if not report.layers[layer].removable]
    _expect(not kept, f"{where}.layers", "removable layers, none that the report protects", kept)
    if removal.probabilities is not None:
        fits = len(removal.probabilities) == n_remove and all(0 <= p <= 1 for p in removal.probabilities)
        _expect(fits, f"{where}.probabilities", "a number from 0 to 1 for each layer", removal.probabilities)


def _check_surrogate(surrogate: SurrogateRecord, n_players: int, where: str) -> None:
    lengths = (len(surrogate.n_removed), len(surrogate.scores), len(surrogate.predictions))
    _expect(
        len(set(lengths)) == 1,
        where,
        "an object with as many n_removed as scores and predictions",
        lengths,
    )
    table = surrogate.interactions
    if table is not None:
        shape = [len(row) for row in table]
        _expect(
            shape == n_players * [n_players],
            f"{where}.interactions",
            f"{n_players} rows of {n_players}: one for each removable layer",
            shape,
        )


def _check_outcome(outcome: PruningOutcome, n_layers: int, where: str) -> None:
    _check_layers(outcome.removed, n_layers, f"{where}.removed")
    if outcome.compensation is not None:
        _check_layers(outcome.compensation.removed, n_layers, f"{where}.compensation.removed")
        changed = [change.layer for change in outcome.compensation.changes]
        within = all(layer < n_layers for layer in changed)
        _expect(within, f"{where}.compensation.changes", f"changes of layers from 0 to {n_layers - 1}", changed)
    if outcome.generation is not None:
        _check_generation(outcome.generation, f"{where}.generation")
    before, after = outcome.before, outcome.after
    scored = [[(s.task, s.metric, s.protocol) for s in model.scores] for model in (before, after)]
    _expect(scored[0] == scored[1], f"{where}.after.scores", "the same scores as before.scores", scored[1])
    timed = [[s.batch_size for s in model.speed] for model in (before, after)]
    _expect(timed[0] == timed[1], f"{where}.after.speed", f"the batch sizes of before.speed, {timed[0]}", timed[1])


def _check_generation(record: GenerationRecord, where: str) -> None:
    counts = (len(record.lengths), len(record.equal_starts))
    _expect(counts[0] == counts[1] > 0, where, "an object with as many lengths as equal_starts", counts)
    for start, length in zip(record.equal_starts, record.lengths, strict=True):
        _expect(start <= length, f"{where}.equal_starts", f"at most the answers' lengths, {length}", start)


def _check_layers(layers: Sequence[int], n_layers: int, where: str) -> None:
    valid = list(layers) == sorted(set(layers)) and all(0 <= layer < n_layers for layer in layers)
    _expect(bool(layers) and valid, where, f"different layers from 0 to {n_layers - 1}, sorted", layers)


def _expect(condition: bool, where: str, wanted: str, found: Any) -> None:
    if not condition:
        raise ReportFormatError(f"{where} must be {wanted}, got {found!r:.200}")

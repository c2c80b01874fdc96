"""The tables of a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layershap.report.records import PruningOutcome
from layershap.report.tables import Cell, Table

if TYPE_CHECKING:
    from layershap.report.report import PruningReport


def tables(report: PruningReport) -> dict[str, Table]:
    """All tables of a report, by name."""
    found = {"summary": summary_table(report), "layers": layer_table(report), "removals": removal_table(report)}
    if report.outcomes:
        found["outcomes"] = outcome_table(report.outcomes)
    if any(outcome.after.speed for outcome in report.outcomes):
        found["speed"] = speed_table(report.outcomes)
    return found


def summary_table(report: PruningReport) -> Table:
    """What was fitted, on what, how, and at which cost."""
    fit, cost, text = report.fit, report.cost, report.calibration
    versions = ", ".join(f"{name} {number}" for name, number in report.environment.versions.items())
    rows: list[tuple[Cell, ...]] = [
        ("model", f"{fit.model_class}, {len(report.layers)} layers at {fit.layers_path}, {fit.dtype}"),
        ("size", f"{fit.n_parameters:,} parameters, {mebibytes(fit.n_bytes)}"),
        ("calibration", f"{text.n_sequences} x {text.seq_len} tokens, " + describe(text.provenance)),
        ("score", f"{fit.utility}; {fit.baseline_score:.4g} for the model with all its layers"),
        ("surrogate", f"{report.surrogate.name}, held-out R2 {report.surrogate.held_out_r2:.3f}"),
        ("cost", f"{cost.n_masks} masks, {cost.layer_runs:,} layer runs, {cost.seconds:.1f} s, {cost.path} forward"),
        ("random_state", fit.settings.get("random_state", "")),
        ("versions", versions),
        ("machine", f"{report.environment.platform}, {report.environment.device}"),
    ]
    return Table("Fit", ("", "what"), tuple(rows))


def layer_table(report: PruningReport) -> Table:
    """Values with errors, and in which order the layers go."""
    rows = [
        (
            layer.index,
            layer.contribution,
            layer.standard_error,
            layer.removal_rank if layer.removable else None,
            f"{layer.mixer} + {layer.feed_forward}",
            layer.n_parameters,
            "" if layer.removable else f"protected: {layer.reason}",
        )
        for layer in report.layers
    ]
    columns = ("layer", "value", "standard error", "rank by value", "kind", "parameters", "note")
    return Table("Layers, by their value for the score", columns, tuple(rows))


def removal_table(report: PruningReport) -> Table:
    """For each number of removed layers: which, what that scores, what is left."""
    rows = [
        (
            removal.n_remove,
            ", ".join(map(str, removal.layers)),
            removal.score,
            removal.predicted_score,
            removal.n_parameters,
            100 * (1 - removal.n_parameters / report.fit.n_parameters),
            round(removal.n_bytes / 2**20, 1),
        )
        for removal in report.removals
    ]
    columns = ("removed", "layers", "score", "predicted score", "parameters left", "% smaller", "MiB left")
    return Table("Removals, on the calibration text", columns, tuple(rows))


def outcome_table(outcomes: tuple[PruningOutcome, ...]) -> Table:
    """Size and quality before and after, a row per figure; each names its protocol or task."""
    rows: list[tuple[Cell, ...]] = []
    for outcome in outcomes:
        removed = ", ".join(map(str, outcome.removed))
        before, after = outcome.before, outcome.after
        rows.append((removed, "layers", before.n_layers, after.n_layers))
        rows.append((removed, "parameters", before.n_parameters, after.n_parameters))
        rows.append((removed, "MiB", round(before.n_bytes / 2**20, 1), round(after.n_bytes / 2**20, 1)))
        rows += [
            (removed, f"{old.metric} ({old.name}, {old.n_items:,} items)", old.value, new.value)
            for old, new in zip(before.quality, after.quality, strict=True)
        ]
    return Table("Measured before and after", ("removed layers", "what", "before", "after"), tuple(rows))


def speed_table(outcomes: tuple[PruningOutcome, ...]) -> Table:
    """Prefill and decode before and after, in milliseconds and tokens per second."""
    rows: list[tuple[Cell, ...]] = []
    for outcome in outcomes:
        removed = ", ".join(map(str, outcome.removed))
        for old, new in zip(outcome.before.speed, outcome.after.speed, strict=True):
            batch = f"batch {old.batch_size}"
            prefill = f"prefill of {old.prompt_tokens} tokens, {batch}"
            rows.append((removed, f"{prefill}: ms", 1e3 * old.prefill_seconds, 1e3 * new.prefill_seconds))
            rows.append((removed, f"{prefill}: tokens/s", old.prefill_tokens_per_second, new.prefill_tokens_per_second))
            if old.decode_seconds is not None and new.decode_seconds is not None:
                rows.append((removed, f"decode, {batch}: ms/token", 1e3 * old.decode_seconds, 1e3 * new.decode_seconds))
                rates = (old.decode_tokens_per_second, new.decode_tokens_per_second)
                rows.append((removed, f"decode, {batch}: tokens/s", *rates))
    return Table("Measured speed (medians)", ("removed layers", "what", "before", "after"), tuple(rows))


def describe(provenance: dict[str, object]) -> str:
    """Provenance in one line."""
    return ", ".join(f"{name} {value}" for name, value in provenance.items())


def mebibytes(n_bytes: int) -> str:
    """Bytes for people."""
    return f"{n_bytes / 2**20:,.1f} MiB"

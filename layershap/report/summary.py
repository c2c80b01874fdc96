"""The tables of a report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from layershap.compensation import CompensationRecord
from layershap.escaping import markdown_text
from layershap.report.curve import curve_of_report, scores_are_perplexity_ratios
from layershap.report.outcome import GenerationRecord, PruningOutcome
from layershap.report.records import LayerRecord
from layershap.report.words import describe, named
from layershap.scoring.collapse import collapse
from layershap.tables import MEGABYTE, Cell, Table, megabytes

if TYPE_CHECKING:
    from layershap.report.report import PruningReport


def tables(report: PruningReport) -> dict[str, Table]:
    """All tables of a report, by name."""
    found = {"summary": summary_table(report), "layers": layer_table(report), "removals": removal_table(report)}
    for number, outcome in enumerate(report.outcomes, start=1):
        found[f"outcome_{number}"] = outcome_table(report, outcome)
        if outcome.compensation is not None:
            title = f"{_without(report, outcome)}: compensation"
            found[f"compensation_{number}"] = compensation_table(outcome.compensation, title)
        if outcome.generation is not None:
            found[f"answers_{number}"] = answers_table(report, outcome, outcome.generation)
        if outcome.after.speed:
            found[f"speed_{number}"] = speed_table(report, outcome)
    return found


def to_markdown(report: PruningReport) -> str:
    """All tables of a report in Markdown, everything escaped, with their titles as headings."""
    return "\n\n".join(f"## {markdown_text(t.title)}\n\n{t.to_markdown()}" for t in tables(report).values()) + "\n"


def summary_table(report: PruningReport) -> Table:
    """What was fitted, on what, how, and at which cost."""
    fit, cost, text = report.fit, report.cost, report.calibration
    final = "" if text.final_sequences is None else f", {text.final_sequences} of them held back for the final choice"
    versions = ", ".join(f"{name} {number}" for name, number in report.environment.versions.items())
    rows: list[tuple[Cell, ...]] = [
        ("model", f"{named(fit)}, {len(report.layers)} {fit.granularity}s at {fit.layers_path}, {fit.dtype}"),
        ("size", f"{fit.n_parameters:,} parameters, {megabytes(fit.n_bytes)}"),
        ("calibration", f"{text.n_sequences} x {text.seq_len} tokens{final}, " + describe(text.provenance)),
        ("score", f"{fit.utility}; {fit.baseline_score:.4g} for the model with all its layers"),
        ("surrogate", f"{report.surrogate.name}, held-out R2 {report.surrogate.held_out_r2:.3f}"),
        (
            "cost",
            f"{cost.n_masks} masks beside the whole and the empty model, {cost.layer_runs:,} layer runs, "
            f"{cost.seconds:.1f} s, {cost.path} forward",
        ),
        (
            "of it for values",
            f"{cost.n_for_values} masks, {cost.value_run_tokens / max(cost.layer_run_tokens, 1):.0%} of the work",
        ),
        *[("doubt", doubt) for doubt in report.doubts],
        *_precision(report),
        *_compensation_asked_for(report),
        ("random_state", fit.settings.get("random_state", "")),
        ("versions", versions),
        ("machine", f"{report.environment.platform}, {report.environment.device}"),
    ]
    return Table("Fit", ("", "what"), tuple(rows))


def _precision(report: PruningReport) -> list[tuple[Cell, ...]]:
    """How large the error of half precision is, beside that of the text, and where it could have turned a choice."""
    check = report.precision
    if check is None:
        return []
    if check.note:
        return [("rounding", f"{check.dtype}, not compared with float32: {check.note}")]
    text = (
        f"{check.dtype} moves the lead of one set over another by {check.of_choice:.2g} (standard error on all "
        f"sequences; {check.per_sequence:.2g} on one), other text by {check.of_text:.2g}; "
    )
    if not check.close:
        return [("rounding", text + "no choice within three of the former")]
    text += f"within three of the former: the choice of {_numbers(check.close)} {report.fit.granularity}s"
    text += f"; decided in float32: {_numbers(check.settled)}; another set for {_numbers(check.changed)}"
    return [("rounding", text)]


def _numbers(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values)) or "none"


def _compensation_asked_for(report: PruningReport) -> list[tuple[Cell, ...]]:
    asked = report.fit.settings.get("compensation", "None")
    return [] if asked == "None" else [("compensation", f"{asked}, by transform")]


def layer_table(report: PruningReport) -> Table:
    """Values with errors, and in which order the layers go."""
    rows = [
        (
            layer.name,
            layer.contribution,
            layer.standard_error,
            layer.removal_rank if layer.removable else None,
            f"{layer.mixer} + {layer.feed_forward}",
            layer.n_parameters,
            _layer_note(layer),
        )
        for layer in report.layers
    ]
    columns = ("layer", "value", "standard error", "rank by value", "kind", "parameters", "note")
    player = report.fit.granularity
    note = (
        f"value: by how much the score rises, on average, when the {player} joins some of the others. rank by value: 1 "
        f"for the {player} of least value, the first to go if the values alone decided; the sets that the selector "
        "chose need not follow it. veto player: without it alone less than a third of the model's worth is left; in "
        f"doubt: the value has another sign than what the {player} adds to all others."
    )
    if any(layer.contribution is not None and math.isnan(layer.contribution) for layer in report.layers):
        note += f" {_UNKNOWN}: too few masks were drawn for it (n_masks), or the score without it isn't finite."
    return Table("Layers, by their value for the score", columns, tuple(rows), note)


_UNKNOWN = "value unknown"


def _layer_note(layer: LayerRecord) -> str:
    if not layer.removable:
        return f"protected: {layer.reason}"
    unknown = layer.contribution is not None and math.isnan(layer.contribution)
    return ", ".join(part for part in (layer.remark, _UNKNOWN if unknown else "") if part)


def removal_table(report: PruningReport) -> Table:
    """For each number of removed layers: which, what that scores, what is left."""
    columns: dict[str, list[Cell]] = {
        "removed": [removal.n_remove for removal in report.removals],
        "layers": [report.names(removal.layers) for removal in report.removals],
        "least sure": [None if r.probabilities is None else min(r.probabilities) for r in report.removals],
        "score": [removal.score for removal in report.removals],
        "+/-": [None if r.comparison is None else r.comparison.score_error for r in report.removals],
        **_perplexity_columns(report),
        "over greedy": [None if r.comparison is None else r.comparison.over_greedy for r in report.removals],
        "+/- of that": [None if r.comparison is None else r.comparison.over_greedy_error for r in report.removals],
        "predicted score": [removal.predicted_score for removal in report.removals],
        "parameters left": [removal.n_parameters for removal in report.removals],
        "% smaller": [100 * (1 - removal.n_parameters / report.fit.n_parameters) for removal in report.removals],
        "MB left": [removal.n_bytes / MEGABYTE for removal in report.removals],
    }
    player = report.fit.granularity
    note = (
        f"least sure: the choice is made again on resampled calibration sequences; the share of the resamples in which "
        f"a {player} is removed, for the {player} of the set whose share is lowest (1: the set is the same in all). "
        "score: on text held back from the search, of the choice rather than of one set: it is made again without each "
        "quarter of that text and judged there, so other sets may enter, and it can be below greedy's though the set "
        "shown is not. over greedy: its lead over greedy removal's set there; within two +/- it is noise. Where "
        "nothing was held back (fewer than 32 sequences) the score is the set's own on the text searched, which "
        "flatters it, and the other three are -. predicted score: the surrogate's."
    )
    if scores_are_perplexity_ratios(report.fit):
        note += (
            " % higher perplexity: what the score says of the perplexity on that text, 100 (1 / score - 1); of the "
            "predicted score where there is no other."
        )
    rows = tuple(zip(*columns.values(), strict=True))
    return Table("Removals, by the calibration text", tuple(columns), rows, note)


def _perplexity_columns(report: PruningReport) -> dict[str, list[Cell]]:
    """What scores that are perplexity ratios say in percent, as in the curve; no column for other scores."""
    if not scores_are_perplexity_ratios(report.fit):
        return {}
    curve = curve_of_report(report)
    return {"% higher perplexity": [curve.point(r.n_remove).perplexity_increase for r in report.removals]}


def outcome_table(report: PruningReport, outcome: PruningOutcome) -> Table:
    """Size and scores before and after, a row per figure; each score names its protocol."""
    before, after = outcome.before, outcome.after
    rows = [
        _row("layers", before.n_layers, after.n_layers),
        _row("parameters", before.n_parameters, after.n_parameters),
        _row("MB", before.n_bytes / MEGABYTE, after.n_bytes / MEGABYTE),
        *[
            _row(f"{old.metric} of {old.task} ({old.protocol}, n = {old.n:,})", old.value, new.value)
            for old, new in zip(before.scores, after.scores, strict=True)
        ],
    ]
    note = collapse(before.scores, after.scores)
    if outcome.generation is not None:
        note = f"{note} {_ANSWERS}".strip()
    return Table(f"{_without(report, outcome)}: size and scores", _BEFORE_AFTER, tuple(rows), note)


_ANSWERS = (
    "Of generation: equal_answers, equal_tokens: shares of the answers, and of their tokens place by place, that are "
    "those of the model before pruning. first_divergence: tokens before the first that differs. log_likelihood: of its "
    "answers, in nats per token. repetition: share of the runs of four tokens that occurred before in the same answer. "
    "length: in tokens. exact_match: share of the right answers. Answers that say the same in other words differ too; "
    "what tells that they are broken is repetition, length and log_likelihood."
)


def answers_table(report: PruningReport, outcome: PruningOutcome, record: GenerationRecord) -> Table:
    """Where the answers part, and some of them as text."""
    same = [start == length for start, length in zip(record.equal_starts, record.lengths, strict=True)]
    starts = sorted(record.equal_starts)
    rows: list[tuple[Cell, ...]] = [
        ("prompts", f"{len(starts)}; {describe(record.provenance)}"),
        ("answers that begin with all of the former one", f"{sum(same)} of {len(same)}"),
        (
            "tokens before the first difference",
            f"median {starts[len(starts) // 2]}, from {starts[0]} to {starts[-1]}; answers of up to "
            f"{record.max_new_tokens}, {sum(record.lengths) / len(same):.0f} in the mean",
        ),
    ]
    for number, example in enumerate(record.examples, start=1):
        rows += [
            (f"prompt {number}", example.prompt),
            (f"answer {number}, before", _shown(example.before)),
            (f"answer {number}, after", _shown(example.after)),
        ]
    return Table(f"{_without(report, outcome)}: greedy answers", ("", "what"), tuple(rows))


def _shown(answer: str) -> str:
    """An answer, or words for one that would leave its cell blank."""
    return answer if answer.strip() else "(white space only)" if answer else "(empty)"


def compensation_table(record: CompensationRecord, title: str) -> Table:
    """What was changed in the kept layers, measured on which text, and what it gained there."""
    changes = [f"layer {change.layer} {change.module}".rstrip() + f": {change.kind}" for change in record.changes]
    of_text = f", {describe(record.text)}" if record.text else ""  # a checkpoint doesn't keep whose text it was
    rows: list[tuple[Cell, ...]] = [
        ("method", record.method),
        ("text", f"{record.n_tokens:,} tokens to fit to, {record.n_held_out:,} held out{of_text}"),
        ("changes", f"{len(changes)}" + "".join(f"; {change}" for change in changes)),
        ("loss on the held-out part", f"{record.loss_before:.4f} -> {record.loss_after:.4f} nats per token"),
        ("perplexity there", f"{_perplexity(record.loss_before)} -> {_perplexity(record.loss_after)}"),
        *[("left alone", note) for note in record.notes],
    ]
    note = (
        "changes: of the kept layers' weights; layers are counted as before the removal. The held-out part chose among "
        "the changes, so its loss flatters them a little."
    )
    return Table(title, ("", "what"), tuple(rows), note)


def compensation_sentence(record: CompensationRecord) -> str:
    """In a line or two: whether the kept layers' weights are those that they had."""
    text = f"{record.n_tokens:,} tokens of calibration text, {record.n_held_out:,} others held out"
    if not record.changes:
        return (
            f"{record.method}, on {text}, found no change that lowers the loss on these ({record.loss_before:.4f} nats "
            "per token): the kept layers are unchanged."
        )
    n_changes = f"{len(record.changes)} change{'s' if len(record.changes) > 1 else ''}"
    return (
        f"{record.method} made up for the removed layers by {n_changes} of the kept layers' weights, on {text}: loss "
        f"on these {record.loss_before:.4f} -> {record.loss_after:.4f} nats per token (perplexity "
        f"{_perplexity(record.loss_before)} -> {_perplexity(record.loss_after)})."
    )


def _perplexity(loss: float) -> str:
    return f"{math.exp(loss):.4g}" if loss < 700 else "inf"


def speed_table(report: PruningReport, outcome: PruningOutcome) -> Table:
    """Prefill and decode before and after, in milliseconds and tokens per second."""
    rows = []
    for old, new in zip(outcome.before.speed, outcome.after.speed, strict=True):
        prefill, decode = f"prefill, batch {old.batch_size}", f"decode, batch {old.batch_size}"
        rows.append(_row(f"{prefill}: ms", 1e3 * old.prefill_seconds, 1e3 * new.prefill_seconds))
        rows.append(_row(f"{prefill}: tokens/s", old.prefill_tokens_per_second, new.prefill_tokens_per_second))
        if old.decode_seconds is not None and new.decode_seconds is not None:
            rows.append(_row(f"{decode}: ms/token", 1e3 * old.decode_seconds, 1e3 * new.decode_seconds))
            rows.append(_row(f"{decode}: tokens/s", old.decode_tokens_per_second, new.decode_tokens_per_second))
    first, where = outcome.before.speed[0], outcome.environment
    title = (
        f"{_without(report, outcome)}: speed on {where.device}, threads: {where.threads}; medians, "
        f"{first.prompt_tokens} prompt tokens, {first.new_tokens} new ones"
    )
    return Table(title, _BEFORE_AFTER, tuple(rows))


_BEFORE_AFTER = ("what", "before", "after", "after / before")


def _row(what: str, before: float | None, after: float | None) -> tuple[Cell, ...]:
    # Of figures below 0, log-likelihoods, the worse has the larger ratio.
    ratio = after / before if before is not None and after is not None and before > 0 and after >= 0 else None
    return (what, before, after, ratio)


def _without(report: PruningReport, outcome: PruningOutcome) -> str:
    return f"Without {report.fit.granularity}s {report.names(outcome.removed)}"

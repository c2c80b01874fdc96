"""A Markdown model card for a pruned model, made without a network."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from layershap.checkpoint import RECIPE_FILE
from layershap.compensation import CompensationRecord
from layershap.escaping import markdown_code, markdown_text, one_line
from layershap.places import public_name
from layershap.report.outcome import PruningOutcome
from layershap.report.records import RemovalRecord
from layershap.report.summary import (
    compensation_sentence,
    compensation_table,
    layer_table,
    outcome_table,
    speed_table,
)
from layershap.report.words import describe
from layershap.tables import megabytes
from layershap.targets.choice import TargetChoice, reason

if TYPE_CHECKING:
    from layershap.report.report import PruningReport

PAPER = "https://arxiv.org/abs/2602.07804"


CardCompensation = CompensationRecord | Literal["measured"] | None


def model_card(
    report: PruningReport,
    n_remove: int | float,
    *,
    name: str,
    base_model: str | None = None,
    compensation: CardCompensation = "measured",
    target: TargetChoice | None = None,
) -> ModelCard:
    """Model card of the model with `n_remove` layers removed.

    Parameters
    ----------
    report : PruningReport
        Report of the fit. If it holds an outcome with these layers removed, its figures are in the card.
    n_remove : int or float
        Number of layers of one of the report's removals, or a fraction of the layers.
    name : str
        Name of the pruned model.
    base_model : str, optional
        Repository or folder of the original model.
    compensation : CompensationRecord, "measured" or None, default="measured"
        Change of the kept layers' weights that made up for the removed ones
        (`layershap.compensation.compensation_record`); None says that they are unchanged. "measured": as the last
        outcome with these layers removed says, or unchanged without one. Figures of outcomes that were compensated
        otherwise are left out of the card.
    target : TargetChoice, optional
        What `n_remove` was chosen by, if by a target (`layershap.targets.choose_removal`).

    Returns
    -------
    huggingface_hub.ModelCard
        The card; ``card.save(folder / "README.md")`` writes it.
    """
    removal = report.removal(n_remove)
    base_model = None if base_model is None else public_name(base_model)
    outcomes = [o for o in reversed(report.outcomes) if o.removed == removal.layers]
    if compensation != "measured":
        outcomes = [o for o in outcomes if _without_text(o.compensation) == _without_text(compensation)]
    outcome = outcomes[0] if outcomes else None
    if compensation == "measured":
        compensation = None if outcome is None else outcome.compensation
    # A model measured for its speed only has no scores; the metadata takes none rather than an empty list of them.
    results = (_eval_results(outcome) or None) if outcome is not None else None
    data = ModelCardData(
        base_model=one_line(base_model) if base_model is not None else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["pruning", "depth-pruning", "layershap"],
        model_name=one_line(name) if results else None,
        eval_results=results,
    )
    body = _body(report, removal, outcome, compensation, name=name, base_model=base_model, target=target)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")


def _without_text(record: CompensationRecord | None) -> CompensationRecord | None:
    """A record as a saved model keeps it: without the provenance of its text."""
    return None if record is None else replace(record, text={})


def _body(
    report: PruningReport,
    removal: RemovalRecord,
    outcome: PruningOutcome | None,
    compensation: CompensationRecord | None,
    *,
    name: str,
    base_model: str | None,
    target: TargetChoice | None,
) -> str:
    fit, text = report.fit, report.calibration
    origin = markdown_code(base_model) if base_model else markdown_text(fit.model_name or f"a {fit.model_class}")
    score = "not measured" if removal.score is None else f"{removal.score:.4g}"
    parts = [
        f"# {markdown_text(name)}",
        f"{origin} without {removal.n_remove} of its {len(report.layers)} {fit.granularity}s: "
        f"{markdown_text(report.names(removal.layers))}. "
        f"{removal.n_parameters:,} of {fit.n_parameters:,} parameters, {megabytes(removal.n_bytes)} of "
        f"{megabytes(fit.n_bytes)} are left. "
        + (
            "Removing them left the other layers' weights unchanged and trained nothing."
            if compensation is None
            else markdown_text(compensation_sentence(compensation)) + " This trained nothing."
        )
        + " What was done to the model since, such as training or quantising it, isn't told here.",
        f"The layers were chosen by [layershap]({PAPER}): each layer is a player in a cooperative game, whose value is "
        "how well the model does with only some of its layers.",
        "## How to load it",
        f"Where the folder holds `{RECIPE_FILE}`: `layershap.load_pruned(folder)`. It holds one if the architecture's "
        "config can't say which layers are gone, and `from_pretrained` refuses it then. Else: "
        "`transformers.AutoModelForCausalLM.from_pretrained(folder)`.",
        "## How it was chosen",
        f"- calibration text: {text.n_sequences} sequences of {text.seq_len} tokens "
        f"({markdown_text(describe(text.provenance))})"
        + ("" if text.final_sequences is None else f", {text.final_sequences} held back for the final choice"),
        f"- score: {markdown_text(fit.utility)}; all layers {fit.baseline_score:.4g}, "
        f"{'this model' if compensation is None else 'the masked model without these layers'} {score} "
        f"(predicted {removal.predicted_score:.4g}){_perplexity(report, removal)}",
        *([] if target is None else [f"- number of layers: {markdown_text(reason(target))}"]),
        f"- surrogate: {markdown_text(report.surrogate.name)}, held-out R2 {report.surrogate.held_out_r2:.3f}",
        markdown_text(f"- random_state: {fit.settings.get('random_state')}; {describe(report.environment.versions)}"),
    ]
    if report.doubts:
        parts += ["## Doubts about the fit", "\n".join(f"- {markdown_text(doubt)}" for doubt in report.doubts)]
    if compensation is not None:
        parts += ["## What was changed in the layers that stayed", compensation_table(compensation, "").to_markdown()]
    if outcome is not None:
        parts += ["## Before and after", outcome_table(report, outcome).to_markdown()]
        parts += ["Perplexities under different protocols can't be compared; each row names its own."]
    if outcome is not None and outcome.after.speed:
        speed = speed_table(report, outcome)
        parts += [f"{markdown_text(speed.title)}:", speed.to_markdown()]
    parts += ["## Values of the layers", layer_table(report).to_markdown()]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"


def _perplexity(report: PruningReport, removal: RemovalRecord) -> str:
    """What a score that is a perplexity ratio means for the perplexity."""
    increase = report.curve().point(removal.n_remove).perplexity_increase
    if increase is None:
        return ""
    of_what = "" if removal.score is not None else " as predicted"
    return f": perplexity {increase:+.3g}% on the calibration text{of_what}"


def _eval_results(outcome: PruningOutcome) -> list[Any]:
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=one_line(score.task),
            dataset_name=one_line(f"{score.task} ({score.protocol})"),
            metric_type=one_line(score.metric),
            metric_value=score.value,
        )
        for score in outcome.after.scores
    ]

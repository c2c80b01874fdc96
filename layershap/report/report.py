"""`PruningReport`: what a fit found and what pruning did, as plain numbers that can be kept, shown and compared."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from layershap.environment import Environment
from layershap.exceptions import ReportFormatError
from layershap.fitting.precision import PrecisionCheck
from layershap.limits import is_int
from layershap.model.stack import LayersArgument
from layershap.report import build, summary
from layershap.report.card import CardCompensation, model_card
from layershap.report.curve import curve_of_report
from layershap.report.figures import scores_of_both
from layershap.report.formats import FORMAT, upgraded, writer_of
from layershap.report.identify import removal_of
from layershap.report.measure import measure_outcome
from layershap.report.outcome import PruningOutcome
from layershap.report.page import page
from layershap.report.records import (
    CalibrationRecord,
    CostRecord,
    FitRecord,
    LayerRecord,
    RemovalRecord,
    SurrogateRecord,
)
from layershap.report.store import from_plain, read_json, to_plain
from layershap.report.validity import check_report
from layershap.scoring.evaluate import Texts
from layershap.speed import speed_lengths
from layershap.tables import Table
from layershap.targets import RemovalCurve, TargetChoice

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from layershap.fitting.fitted import FittedPruner

_MARK = "layershap_report"


@dataclass(frozen=True)
class PruningReport:
    """Everything worth keeping of a fit and of the models pruned by it.

    ``pruner.report_`` holds the results of `fit`; `measure` adds measured models. Showing a report computes nothing.

    Attributes
    ----------
    fit : FitRecord
        Model, utility, settings with the seed.
    layers : tuple of LayerRecord
        The L layers: values with errors.
    removals : tuple of RemovalRecord
        For n = 1, 2, ...: the layers removed, their score, the size of the pruned model.
    surrogate : SurrogateRecord
        Held-out predictions and interactions.
    calibration : CalibrationRecord
        Provenance of the text.
    cost : CostRecord
        Masks, layer runs, seconds.
    environment : Environment
        Versions and machine of the fit.
    precision : PrecisionCheck or None
        What half precision leaves open in the choice; None for float32, or without text held back.
    doubts : tuple of str
        Why the values or the surrogate can't be trusted, and what to do about it; what `fit` warned of.
    outcomes : tuple of PruningOutcome
        Models measured before and after pruning.
    """

    fit: FitRecord
    layers: tuple[LayerRecord, ...]
    removals: tuple[RemovalRecord, ...]
    surrogate: SurrogateRecord
    calibration: CalibrationRecord
    cost: CostRecord
    environment: Environment
    precision: PrecisionCheck | None = None
    doubts: tuple[str, ...] = ()
    outcomes: tuple[PruningOutcome, ...] = ()

    def __eq__(self, other: object) -> bool:
        """Whether two reports hold the same, NaN being the same as NaN."""
        return to_plain(self) == to_plain(other) if isinstance(other, PruningReport) else NotImplemented

    @classmethod
    def from_estimator(cls, pruner: FittedPruner) -> PruningReport:
        """The report of a fitted `LayerPruner`; the same as ``pruner.report_``."""
        return cls(
            fit=build.fit_record(pruner),
            layers=build.layer_records(pruner),
            removals=build.removal_records(pruner),
            surrogate=build.surrogate_record(pruner),
            calibration=build.calibration_record(pruner),
            cost=build.cost_record(pruner),
            environment=pruner.environment_,
            precision=pruner.diagnostics_["precision"],
            doubts=tuple(pruner.diagnostics_["doubts"]),
        )

    def measure(
        self,
        model: nn.Module,
        pruned: nn.Module,
        tokenizer: Any = None,
        *,
        texts: Texts | Mapping[str, Texts] | None = None,
        tasks: Sequence[Any] = (),
        protocol: str = "seq128",
        n_sequences: int | None = None,
        limit: int | None = None,
        generation: Any = None,
        max_new_tokens: int = 64,
        batch_sizes: Sequence[int] = (1, 8),
        prompt_tokens: int | None = None,
        new_tokens: int | None = None,
        n_remove: int | None = None,
        layers: LayersArgument = None,
    ) -> PruningReport:
        """Return the report with one more outcome: both models measured, in turns, on this machine.

        Parameters
        ----------
        model, pruned : nn.Module
            The models before and after pruning.
        tokenizer : PreTrainedTokenizerBase, optional
            The models' tokenizer, which texts and tasks need.
        texts, tasks, protocol, n_sequences, limit, generation, max_new_tokens
            Scores of both models: see `layershap.evaluate`. Answers to prompts are compared with those of `model`.
            Without texts, tasks and prompts, size and speed only.
        batch_sizes : sequence of int, default=(1, 8)
            Batch sizes for latency and throughput of prefill and decode; an empty sequence measures no speed.
        prompt_tokens, new_tokens : int, optional
            Numbers of tokens at which speed is measured. By default 128 and 32, or what fits the models' positions.
        n_remove : int, optional
            Number of layers removed in `pruned`. By default found from the weights, or (trained, quantised or
            compensated since) from the number of layers; needed where sublayers were removed.
        layers : str or sequence of nn.Module, optional
            Where the layers are, if the rule can't know.

        Returns
        -------
        PruningReport
            A new report.

        Raises
        ------
        ValueError
            `model` isn't as deep as the fitted one, `pruned` none of the report's removals, or `n_remove` is needed.

        Warns
        -----
        GenerationWarning
            The answers of `pruned` have collapsed, whatever its perplexity says. Tables and card say so.
        """
        lengths = speed_lengths((model, pruned), prompt_tokens, new_tokens) if batch_sizes else (1, 1)
        missing = removal_of(self, model, pruned, n_remove, layers).layers
        figures = scores_of_both(
            model,
            pruned,
            tokenizer,
            texts=texts,
            tasks=tasks,
            protocol=protocol,
            n_sequences=n_sequences,
            limit=limit,
            generation=generation,
            max_new_tokens=max_new_tokens,
        )
        outcome = measure_outcome(
            model,
            pruned,
            removed=missing,
            scores=(figures.before, figures.after),
            batch_sizes=batch_sizes,
            prompt_tokens=lengths[0],
            new_tokens=lengths[1],
            layers=layers,
            generation=figures.generation,
        )
        return replace(self, outcomes=(*self.outcomes, outcome))

    def names(self, layers: Iterable[int]) -> str:
        """Names of some layers (or sublayers), separated by commas."""
        return ", ".join(self.layers[layer].name for layer in layers)

    def removal(self, n_remove: int | float) -> RemovalRecord:
        """Record of the removal of `n_remove` layers, or of a fraction of all layers (0.25), rounded down to at least
        one.

        Raises
        ------
        ValueError
            The fit knows no set of that size.
        """
        fraction = isinstance(n_remove, float) and 0 < n_remove < 1
        count = max(1, int(n_remove * len(self.layers))) if fraction else n_remove
        for record in self.removals:
            if record.n_remove == count:
                return record
        known = [record.n_remove for record in self.removals]
        raise ValueError(f"n_remove must be one of {known}, for which the fit has chosen layers; got {n_remove}")

    def curve(self) -> RemovalCurve:
        """What every number of removed layers comes to: score, size, certainty, and the speed of measured outcomes."""
        return curve_of_report(self)

    def tables(self) -> dict[str, Table]:
        """Tables by name: summary, layers, removals; outcome_1, compensation_1, answers_1, speed_1 where measured."""
        return summary.tables(self)

    def to_markdown(self) -> str:
        """All tables in Markdown, each under its title as a heading."""
        return summary.to_markdown(self)

    def __str__(self) -> str:
        return "\n\n".join(str(table) for table in self.tables().values())

    def _repr_html_(self) -> str:
        return "".join(table.to_html() for table in self.tables().values())

    def to_html(self, path: str | os.PathLike[str] | None = None, *, n_remove: int | None = None) -> str:
        """One HTML page with all tables and, if matplotlib is installed, the pictures.

        Parameters
        ----------
        path : path, optional
            File to write the page to.
        n_remove : int, optional
            Number of layers whose removal the pictures mark. By default that of the last outcome.

        Returns
        -------
        str
            The page.
        """
        text = page(self, n_remove)
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text, encoding="utf-8")
        return text

    def to_model_card(
        self,
        n_remove: int | float,
        *,
        name: str,
        base_model: str | None = None,
        compensation: CardCompensation = "measured",
        target: TargetChoice | None = None,
    ) -> ModelCard:
        """Model card of the model without `n_remove` layers.

        `n_remove`, `name`, `base_model`, `compensation` and `target` are those of `layershap.report.model_card`.
        """
        return model_card(self, n_remove, name=name, base_model=base_model, compensation=compensation, target=target)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as JSON to `path`, through a file beside it: a report is never half written."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({_MARK: FORMAT, **to_plain(self)}, indent=1, allow_nan=False)
        partial = target.with_name(target.name + ".partial")
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(target)
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PruningReport:
        """Read the report that `save` wrote to `path`.

        Raises
        ------
        ReportFormatError
            Not a report, one of a newer version, or one whose parts contradict each other.
        """
        content = read_json(path)
        found = content.pop(_MARK, None) if isinstance(content, dict) else None
        if not is_int(found) or found < 1:
            raise ReportFormatError(
                f"{path} must be written by PruningReport.save, with {_MARK!r}: {FORMAT}; got {found!r:.40}"
            )
        if found > FORMAT:
            raise ReportFormatError(
                f"{path} is a report of format {found}, written by layershap {writer_of(content)}; this version reads "
                f"formats up to {FORMAT}: pip install --upgrade layershap"
            )
        report = from_plain(cls, upgraded(content, found), str(path))
        check_report(report, str(path))
        return report

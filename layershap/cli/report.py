"""``layershap report``: show a report, measure models for it, write its page, card and pictures."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layershap.cli.arguments import UsageError, add_overwrite_option, at_least, path
from layershap.cli.inputs import (
    add_evaluation_options,
    add_model_options,
    check_model,
    evaluation_options,
    has_weights_of,
    load_model,
)
from layershap.cli.outputs import check_file, check_folder
from layershap.cli.result import CommandResult
from layershap.extras import require

if TYPE_CHECKING:
    from layershap import PruningReport

PICTURES = ("curve", "contributions", "depth", "surrogate", "interactions")


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Options of ``report``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "report",
        help="show a report, add measurements, write a page with pictures",
        description=(
            "Prints the report of a fit. With --model and --pruned it first measures both (size, speed, and with "
            "--text perplexity, with --generation answers) and adds the figures to the report's file."
        ),
    )
    parser.add_argument("report", type=path, metavar="REPORT", help="report.json of `layershap fit`")
    measured = parser.add_argument_group("measure")
    measured.add_argument("--model", metavar="MODEL", help="the original")
    measured.add_argument("--pruned", metavar="MODEL", help="the pruned model")
    measured.add_argument(
        "--n-remove",
        type=at_least(1),
        metavar="N",
        help="which removal the pruned model is (default: found from its weights)",
    )
    measured.add_argument("--no-speed", action="store_true", help="leave out latency and throughput")
    add_evaluation_options(parser)
    written = parser.add_argument_group("write")
    written.add_argument("--html", type=path, metavar="FILE", help="one page with tables and pictures")
    written.add_argument("--pictures", type=path, metavar="FOLDER", help="the pictures as PNG")
    written.add_argument("--card", type=path, metavar="FILE", help="Markdown model card of the last measured model")
    add_overwrite_option(written, "replace page, pictures and card where they exist")
    add_model_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> CommandResult:
    """Show, measure, write."""
    from layershap.report import PruningReport
    from layershap.report.page import pictures

    _check_usage(arguments)
    report = PruningReport.load(arguments.report)
    pages = [path for path in (arguments.html, arguments.card) if path is not None]
    drawn = [arguments.pictures / f"{name}.png" for name in PICTURES] if arguments.pictures is not None else []
    if drawn:
        require("matplotlib", "layershap[plot]", "--pictures")
        check_folder(arguments.pictures)
    for file in pages + drawn:
        check_file(file, arguments.overwrite)
        if file.exists() and file.samefile(arguments.report):
            raise ValueError(f"{file} must be another file than the report itself")
    if arguments.model is not None:
        check_folder(arguments.report.parent)
        report = _measured(report, arguments)
        report.save(arguments.report)
    elif arguments.card is not None and not report.outcomes:
        raise ValueError("a card describes a measured model: give --model and --pruned")
    written = []
    if arguments.html is not None:
        if find_spec("matplotlib") is None:
            print("the page has no pictures: pip install 'layershap[plot]'", file=sys.stderr)
        report.to_html(arguments.html)
        written.append(arguments.html)
    if arguments.pictures is not None:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
        found = pictures(report)
        for name, target in zip(PICTURES, drawn, strict=True):
            if name in found:
                target.write_bytes(found[name])
                written.append(target)
            else:
                # Of another report, whose surrogate had interactions.
                target.unlink(missing_ok=True)
    if arguments.card is not None:
        _write_card(report, arguments)
        written.append(arguments.card)
    text = "\n\n".join([str(report), *[f"written: {path}" for path in written]])
    return CommandResult(text, {"report": report, "written": [str(path) for path in written]})


def _check_usage(arguments: argparse.Namespace) -> None:
    if (arguments.model is None) != (arguments.pruned is None):
        raise UsageError("to measure, give both --model and --pruned")
    if arguments.html is not None and arguments.html == arguments.card:
        raise UsageError(f"--html and --card must be different files, got {arguments.html} for both")
    given = (arguments.n_remove, arguments.generation)
    measured = arguments.text or arguments.tasks or arguments.no_speed or any(each is not None for each in given)
    if measured and arguments.model is None:
        raise UsageError(
            "--text, --tasks, --generation, --n-remove and --no-speed say what to measure: give --model and --pruned "
            "too"
        )


def _measured(report: PruningReport, arguments: argparse.Namespace) -> PruningReport:
    options = evaluation_options(arguments)
    check_model(arguments.pruned, arguments)
    model, tokenizer = load_model(arguments.model, arguments)
    if not has_weights_of(model, report):
        raise ValueError(
            f"--model {arguments.model} must be the model that was fitted ({report.fit.model_class} of "
            f"{len(report.layers)} {report.fit.granularity}s, {report.fit.dtype}), its weights are others: another "
            "checkpoint, or loaded with another --dtype. A report holds the figures of one model"
        )
    pruned, _ = load_model(arguments.pruned, arguments)
    return report.measure(
        model,
        pruned,
        tokenizer,
        **options,
        n_remove=arguments.n_remove,
        batch_sizes=() if arguments.no_speed else (1, 8),
        layers=arguments.layers,
    )


def _write_card(report: PruningReport, arguments: argparse.Namespace) -> None:
    removed = report.outcomes[-1].removed
    n_remove = len(removed)
    if report.removal(n_remove).layers != removed:
        raise ValueError(
            f"a card describes one of the report's removals; the last model measured lacks {report.names(removed)}, "
            f"the report would remove {report.names(report.removal(n_remove).layers)}"
        )
    folder = Path(arguments.pruned) if arguments.pruned else arguments.card.parent
    arguments.card.parent.mkdir(parents=True, exist_ok=True)
    card = report.to_model_card(n_remove, name=folder.resolve().name, base_model=arguments.model)
    card.save(arguments.card)

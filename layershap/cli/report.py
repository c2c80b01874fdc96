"""``layershap report``: show a report, measure models for it, write its page, card and pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from layershap.cli.answer import Answer
from layershap.cli.inputs import add_evaluation_options, add_model_options, evaluation_options, load_model
from layershap.report import PruningReport
from layershap.report.page import pictures


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Options of ``report``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "report",
        help="show a report, add measurements, write a page with pictures",
        description=(
            "Prints the report of a fit. With --model and --pruned it first measures both (size, speed, and with "
            "--text perplexity) and adds the figures to the report's file."
        ),
    )
    parser.add_argument("report", type=Path, metavar="REPORT", help="report.json of `layershap fit`")
    measured = parser.add_argument_group("measure")
    measured.add_argument("--model", metavar="MODEL", help="the original")
    measured.add_argument("--pruned", metavar="MODEL", help="the pruned model")
    measured.add_argument(
        "--n-remove", type=int, metavar="N", help="which removal the pruned model is (default: found from its weights)"
    )
    measured.add_argument("--no-speed", action="store_true", help="leave out latency and throughput")
    add_evaluation_options(parser)
    written = parser.add_argument_group("write")
    written.add_argument("--html", type=Path, metavar="FILE", help="one page with tables and pictures")
    written.add_argument("--pictures", type=Path, metavar="FOLDER", help="the pictures as PNG")
    written.add_argument("--card", type=Path, metavar="FILE", help="Markdown model card of the last measured model")
    add_model_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> Answer:
    """Show, measure, write."""
    report = PruningReport.load(arguments.report)
    if (arguments.model is None) != (arguments.pruned is None):
        raise ValueError("to measure, give both --model and --pruned")
    if arguments.model is not None:
        report = _measured(report, arguments)
        report.save(arguments.report)
    written = []
    if arguments.html is not None:
        report.to_html(arguments.html)
        written.append(arguments.html)
    if arguments.pictures is not None:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
        for name, png in pictures(report).items():
            target = arguments.pictures / f"{name}.png"
            target.write_bytes(png)
            written.append(target)
    if arguments.card is not None:
        if not report.outcomes:
            raise ValueError("a card describes a measured model: give --model and --pruned")
        n_remove = len(report.outcomes[-1].removed)
        name = Path(arguments.pruned).name if arguments.pruned else arguments.card.resolve().parent.name
        arguments.card.parent.mkdir(parents=True, exist_ok=True)
        report.to_model_card(n_remove, name=name, base_model=arguments.model).save(arguments.card)
        written.append(arguments.card)
    text = "\n\n".join([str(report), *[f"written: {path}" for path in written]])
    return Answer(text, {"report": report, "written": [str(path) for path in written]})


def _measured(report: PruningReport, arguments: argparse.Namespace) -> PruningReport:
    model, tokenizer = load_model(arguments.model, arguments)
    pruned, _ = load_model(arguments.pruned, arguments)
    return report.measure(
        model,
        pruned,
        tokenizer,
        **evaluation_options(arguments),
        n_remove=arguments.n_remove,
        batch_sizes=() if arguments.no_speed else (1, 8),
        layers=arguments.layers,
    )

"""``layershap evaluate``: perplexity and task scores of models side by side."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from layershap.cli.arguments import UsageError
from layershap.cli.inputs import (
    add_evaluation_options,
    add_model_options,
    check_model,
    evaluation_options,
    load_model,
)
from layershap.cli.result import CommandResult

if TYPE_CHECKING:
    from layershap import Evaluation


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Options of ``evaluate``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "evaluate",
        help="perplexity and task scores of models side by side",
        description="Measures each model on held-out text under a named protocol: one row per figure.",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folders, names on the Hub, or 'bundled'")
    add_evaluation_options(parser)
    add_model_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> CommandResult:
    """Evaluate every model."""
    from layershap.scoring.evaluate import evaluate, side_by_side

    if not arguments.text and not arguments.tasks:
        raise UsageError("nothing to evaluate: give --text, --tasks or both")
    options = evaluation_options(arguments)
    for source in arguments.models:
        check_model(source, arguments)
    found: dict[str, Evaluation] = {}
    for source in arguments.models:
        model, tokenizer = load_model(source, arguments)
        found[source] = evaluate(model, tokenizer, **options)
    return CommandResult(
        str(side_by_side(found)), {name: evaluation.to_records() for name, evaluation in found.items()}
    )

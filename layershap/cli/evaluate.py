"""``layershap evaluate``: perplexity, task scores and answers of models side by side."""

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
        help="perplexity, task scores and answers of models side by side",
        description=(
            "Measures each model on held-out text under a named protocol: one row per figure. With --generation the "
            "first model's answers are those that the others' are compared with."
        ),
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folders, names on the Hub, or 'bundled'")
    add_evaluation_options(parser)
    add_model_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> CommandResult:
    """Evaluate every model."""
    from layershap.scoring.collapse import collapse
    from layershap.scoring.evaluate import evaluate, side_by_side
    from layershap.scoring.generation import GenerationCheck

    if not arguments.text and not arguments.tasks and arguments.generation is None:
        raise UsageError("nothing to evaluate: give --text, --tasks or --generation, or several of them")
    options = evaluation_options(arguments)
    for source in arguments.models:
        check_model(source, arguments)
    found: dict[str, Evaluation] = {}
    for source in arguments.models:
        model, tokenizer = load_model(source, arguments)
        if options["generation"] is not None and not found:
            # The first model's answers are those that the others' are compared with.
            new_tokens = options.pop("max_new_tokens")
            check = GenerationCheck.from_model(model, options["generation"], tokenizer, max_new_tokens=new_tokens)
            options["generation"] = check
        found[source] = evaluate(model, tokenizer, **options)
    first = found[arguments.models[0]].scores
    warnings = [f"{source}: {warning}" for source, other in found.items() if (warning := collapse(first, other.scores))]
    return CommandResult(
        "\n".join([str(side_by_side(found)), *warnings]),
        {name: evaluation.to_records() for name, evaluation in found.items()},
    )

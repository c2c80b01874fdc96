"""``layershap prune``: remove layers and save the smaller model."""

from __future__ import annotations

import argparse
import warnings
from typing import TYPE_CHECKING, Any

from layershap.cli.arguments import UsageError, add_overwrite_option, count_or_fraction, path
from layershap.cli.calibration import (
    add_source_options,
    calibration_source,
    check_calibration_options,
    idle_options,
    read_calibration,
)
from layershap.cli.compensation import COMPENSATIONS, compensation
from layershap.cli.inputs import add_model_options, has_weights_of, load_model
from layershap.cli.outputs import check_checkpoint_folder, checkpoint_folder
from layershap.cli.result import CommandResult
from layershap.exceptions import CheckpointWarning
from layershap.warning import warn_user

if TYPE_CHECKING:
    from layershap.targets import Target

TARGETS = ("'parameters<=80M'", "'bytes<=100MB'", "'perplexity<=+5%'", "'decode_latency<=20ms,batch=8'")
"""Examples of what `layershap.targets.parse_target` reads, which needs torch and help does not."""

ONE_TARGET = (
    "one target is possible. Choose N from the report's removals (`layershap report REPORT` shows size and score of "
    "each), give it as --n-remove, and measure the rest: `layershap evaluate MODEL OUT --text FILE`"
)


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Options of ``prune``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "prune",
        help="remove layers and save the smaller model",
        description=(
            "Removes the layers that a fit chose for N or for a target (or those you name) and saves model, tokenizer "
            "and model card. The result loads with AutoModelForCausalLM.from_pretrained, or with "
            "layershap.load_pruned where its architecture's config can't express it; the answer says which. With "
            "--compensation the kept layers' weights are changed, on calibration data, to make up for the removed "
            "ones."
        ),
    )
    parser.add_argument("model", metavar="MODEL", help="folder, name on the Hub, or 'bundled': the one that was fitted")
    parser.add_argument("--report", type=path, metavar="FILE", help="report.json of `layershap fit`")
    parser.add_argument(
        "--n-remove",
        type=count_or_fraction,
        metavar="N",
        help="how many layers to remove, or which fraction of them (0.25, rounded down), with --report",
    )
    parser.add_argument(
        "--target",
        metavar="TARGET",
        help=(
            f"what the result is to meet, with --report, instead of --n-remove: {', '.join(TARGETS)}. The smallest "
            "removal that meets it is taken, or the largest that keeps a perplexity; speeds are measured here. One "
            "target is possible"
        ).replace("%", "%%"),
        advice=ONE_TARGET,
    )
    parser.add_argument("--remove", nargs="+", type=int, metavar="LAYER", help="these layers, instead of a report's")
    parser.add_argument("--out", type=path, required=True, help="new folder for the pruned model")
    add_overwrite_option(parser, "replace the checkpoint in OUT, all of it; never the model's own folder")
    group = parser.add_argument_group(
        "compensation", "--compensation is measured on calibration data, of all kinds that matter, as `fit` takes them."
    )
    group.add_argument(
        "--compensation",
        choices=COMPENSATIONS,
        help="change the kept layers' weights, without training, so that less is lost (default: leave them)",
    )
    add_source_options(group, required=False)
    add_model_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> CommandResult:
    """Prune and save."""
    from layershap.checkpoint import save_pruned
    from layershap.compensation import compensation_record
    from layershap.compensation.compensating import Compensating
    from layershap.model.split import find_players
    from layershap.model.stack import check_layer_indices
    from layershap.report import PruningReport
    from layershap.report.identify import check_depth
    from layershap.report.summary import compensation_sentence
    from layershap.surgery import remove_players
    from layershap.surgery.recipe import pruning_recipe
    from layershap.targets.choice import choose_removal

    target = _checked_ways(arguments)
    _check_compensation(arguments)
    check_calibration_options(arguments)
    report = PruningReport.load(arguments.report) if arguments.report is not None else None
    if report is not None and arguments.n_remove is not None:
        report.removal(arguments.n_remove)  # what the fit doesn't know is found out before the model is loaded
    check_checkpoint_folder(arguments.out, arguments.model, arguments.overwrite)
    model, tokenizer = load_model(arguments.model, arguments)
    granularity: Any = report.fit.granularity if report is not None else "layer"
    players = find_players(model, arguments.layers, granularity, causal=False)
    if report is not None:
        check_depth(report, len(players))
        if not has_weights_of(model, report):
            warn_user(
                "the report was made for other weights (another checkpoint, dtype or quantisation of this depth); its "
                "choice of layers may not suit these"
            )
    choice, n_remove, named = None, arguments.n_remove, arguments.remove
    if report is not None and target is not None:
        choice = choose_removal(target, report.curve(), model, players)
        n_remove = choice.n_remove
    if report is not None:
        named = report.removal(n_remove).layers
    layers = check_layer_indices(named, len(players))
    before = sum(p.numel() for p in model.parameters())
    compensating = None
    if arguments.compensation is not None:
        calibration = read_calibration(arguments, tokenizer, model)
        compensating = Compensating(compensation(arguments.compensation), calibration)
    with warnings.catch_warnings():
        # The answer says how to load the result; the warning would say it a second time.
        warnings.simplefilter("ignore", CheckpointWarning)
        pruned: Any = remove_players(model, layers, players, copy=False, compensating=compensating)
    record = compensation_record(pruned) if compensating is not None else None
    recipe = pruning_recipe(pruned)
    plain = recipe is not None and recipe.plain
    with checkpoint_folder(arguments.out) as folder:
        if plain:
            pruned.save_pretrained(folder)
        else:
            save_pruned(pruned, folder)
        tokenizer.save_pretrained(folder)
        if report is not None:
            name = arguments.out.resolve().name
            card = report.to_model_card(
                n_remove, name=name, base_model=arguments.model, compensation=record, target=choice
            )
            card.save(folder / "README.md")
    after = sum(p.numel() for p in pruned.parameters())
    loader = "transformers.AutoModelForCausalLM.from_pretrained" if plain else "layershap.load_pruned"
    names = report.names(layers) if report is not None else ", ".join(map(str, layers))
    text = (
        ("" if choice is None else f"{choice}\n")
        + f"removed {granularity}s {names}: {after:,} of {before:,} parameters are left\n"
        + ("" if record is None else "".join(f"{line}\n" for line in (compensation_sentence(record), *record.notes)))
        + f"written: {arguments.out}\nload it with {loader}({str(arguments.out)!r})"
    )
    data = {
        "path": str(arguments.out),
        "removed": layers,
        "n_parameters": after,
        "n_parameters_before": before,
        "load_with": loader,
        "compensation": record,
        "target": choice,
    }
    return CommandResult(text, data)


def _checked_ways(arguments: argparse.Namespace) -> Target | None:
    """The target, if there is one; raise unless the layers are named in one way."""
    from layershap.targets import parse_target

    ways = [arguments.n_remove is not None, arguments.target is not None, arguments.remove is not None]
    if sum(ways) != 1 or (arguments.report is not None) == (arguments.remove is not None):
        raise UsageError("name the layers either by --report and --n-remove, or --target in its place, or by --remove")
    try:
        return None if arguments.target is None else parse_target(arguments.target)
    except ValueError as error:
        raise UsageError(f"--target: {error}") from None


def _check_compensation(arguments: argparse.Namespace) -> None:
    source = calibration_source(arguments)
    if arguments.compensation is not None and source is None:
        raise UsageError(
            f"--compensation {arguments.compensation} is measured on calibration data: give --text, --chats or "
            "--own-answers"
        )
    given = [source, *idle_options(arguments)] if source is not None else idle_options(arguments)
    if arguments.compensation is None and given:
        raise UsageError(
            f"{' and '.join(given)} can't be given without --compensation: calibration data is what a compensation is "
            f"measured on; give --compensation {' or '.join(COMPENSATIONS)}"
        )

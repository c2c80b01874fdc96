"""``layershap prune``: remove layers and save the smaller model."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

from layershap.checkpoint import save_pruned
from layershap.cli.answer import Answer
from layershap.cli.inputs import add_model_options, load_model
from layershap.exceptions import CheckpointWarning
from layershap.fingerprint import weights_digest
from layershap.model.split import find_players
from layershap.report import PruningReport
from layershap.surgery import remove_players
from layershap.surgery.recipe import pruning_recipe


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Options of ``prune``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "prune",
        help="remove layers and save the smaller model",
        description=(
            "Removes the layers that a fit chose for N (or those you name) and saves model, tokenizer and model card. "
            "The result loads with AutoModelForCausalLM.from_pretrained, or with layershap.load_pruned where its "
            "architecture's config can't express it; the answer says which."
        ),
    )
    parser.add_argument("model", metavar="MODEL", help="folder, name on the Hub, or 'bundled': the one that was fitted")
    parser.add_argument("--report", type=Path, metavar="FILE", help="report.json of `layershap fit`")
    parser.add_argument("--n-remove", type=int, metavar="N", help="how many layers to remove, with --report")
    parser.add_argument("--remove", nargs="+", type=int, metavar="LAYER", help="these layers, instead of a report's")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pruned model")
    add_model_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> Answer:
    """Prune and save."""
    by_report = arguments.report is not None and arguments.n_remove is not None
    if by_report == (arguments.remove is not None):
        raise ValueError("name the layers either by --report and --n-remove, or by --remove")
    report = PruningReport.load(arguments.report) if by_report else None
    layers = list(report.removal(arguments.n_remove).layers) if report is not None else arguments.remove
    model, tokenizer = load_model(arguments.model, arguments)
    granularity: Any = report.fit.granularity if report is not None else "layer"
    players = find_players(model, arguments.layers, granularity, causal=False)
    if report is not None:
        check_fits(report, model, len(players))
    before = sum(p.numel() for p in model.parameters())
    with warnings.catch_warnings():
        # The answer says how to load the result; the warning would say it a second time.
        warnings.simplefilter("ignore", CheckpointWarning)
        pruned: Any = remove_players(model, layers, players, copy=False)
    recipe = pruning_recipe(pruned)
    plain = recipe is not None and recipe.plain
    if plain:
        pruned.save_pretrained(arguments.out)
    else:
        save_pruned(pruned, arguments.out)
    tokenizer.save_pretrained(arguments.out)
    if report is not None:
        card = report.to_model_card(arguments.n_remove, name=arguments.out.name, base_model=arguments.model)
        card.save(arguments.out / "README.md")
    after = sum(p.numel() for p in pruned.parameters())
    loader = "transformers.AutoModelForCausalLM.from_pretrained" if plain else "layershap.load_pruned"
    names = report.names(layers) if report is not None else ", ".join(map(str, sorted(layers)))
    text = (
        f"removed {granularity}s {names}: {after:,} of {before:,} parameters are left\n"
        f"written: {arguments.out}\nload it with {loader}({str(arguments.out)!r})"
    )
    data = {
        "path": str(arguments.out),
        "removed": sorted(layers),
        "n_parameters": after,
        "n_parameters_before": before,
        "load_with": loader,
    }
    return Answer(text, data)


def check_fits(report: PruningReport, model: Any, n_players: int) -> None:
    """Raise if the report is of a model of another depth; warn if of other weights.

    Raises
    ------
    ValueError
        The numbers of layers differ.
    """
    if n_players != len(report.layers):
        raise ValueError(
            f"the report is of a model of {len(report.layers)} {report.fit.granularity}s ({report.fit.model_class}), "
            f"the model given has {n_players}; fit this model"
        )
    if weights_digest(model) != report.fit.weights_digest:
        warnings.warn(
            "the report was made for other weights (another checkpoint, dtype or quantisation of this depth); its "
            "choice of layers may not suit these",
            stacklevel=2,
        )

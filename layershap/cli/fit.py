"""``layershap fit``: values of a model's layers, and which to remove for every number."""

from __future__ import annotations

import argparse
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from layershap.cli.arguments import add_overwrite_option, at_least, path
from layershap.cli.calibration import add_calibration_options, check_calibration_options, read_calibration
from layershap.cli.inputs import add_model_options, check_model, load_model, skeleton
from layershap.cli.outputs import check_file
from layershap.cli.result import CommandResult
from layershap.ranks.launched import is_first_rank

if TYPE_CHECKING:
    from layershap import LayerPruner
    from layershap.game.players import GameModel

REPORT_FILE = "report.json"
LEDGER_FILE = "ledger.jsonl"

_UTILITIES = {"perplexity-ratio": "PerplexityRatio", "nll": "NegativeLogLikelihood", "kl": "KLDivergence"}
"""Option -> class of `layershap.utilities`."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Options of ``fit``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "fit",
        help="estimate what each layer is worth, on calibration text",
        description=(
            "Scores masked models on text, on the answers of chats or on the model's own answers, and writes "
            "OUT/report.json: the layers' values and, for every number of layers, which to remove. OUT/ledger.jsonl "
            "keeps every evaluated mask: an interrupted fit is resumed by the same command. A finished one is not "
            "begun again: its report may hold measurements."
        ),
    )
    parser.add_argument("model", metavar="MODEL", help="folder, name on the Hub, or 'bundled'")
    parser.add_argument("--out", type=path, required=True, help="folder for the report and the ledger")
    parser.add_argument(
        "--method",
        choices=("default", "paper", "paper-mamba", "paper-rwkv", "paper-gptq"),
        default="default",
        help="'paper': arXiv 2602.07804 to the letter; 'paper-...': with its settings for that kind of model",
    )
    parser.add_argument("--n-masks", type=at_least(1), metavar="M", help="masks to evaluate (default: the method's)")
    parser.add_argument(
        "--max-remove", type=at_least(1), metavar="N", help="the most layers to look for (default: two thirds of them)"
    )
    parser.add_argument(
        "--utility",
        choices=sorted(_UTILITIES),
        default="perplexity-ratio",
        help="what a score is (default: perplexity-ratio)",
    )
    parser.add_argument(
        "--granularity",
        choices=("layer", "sublayer"),
        default="layer",
        help="remove whole layers, or attention and feed-forward parts one by one (default: layer)",
    )
    parser.add_argument("--protect", nargs="+", type=int, default=[], metavar="LAYER", help="layers never removed")
    parser.add_argument(
        "--estimate", action="store_true", help="only tell what the fit will cost: layer runs, memory, seconds"
    )
    add_overwrite_option(
        parser, "replace the report in OUT, with what was measured for it; the ledger's masks are used again"
    )
    add_calibration_options(parser)
    add_model_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> CommandResult:
    """Fit and write the report."""
    from layershap import utilities
    from layershap.game.players import GameModel
    from layershap.pruner import LayerPruner

    check_calibration_options(arguments)
    target = arguments.out / REPORT_FILE
    if not arguments.estimate:
        check_file(target, arguments.overwrite)
    method, _, kind = arguments.method.partition("-")
    pruner = LayerPruner.paper(model=kind or "llama") if method == "paper" else LayerPruner()
    pruner.set_params(
        utility=getattr(utilities, _UTILITIES[arguments.utility])(),
        granularity=arguments.granularity,
        protect=arguments.protect,
        layers=arguments.layers,
        ledger=arguments.out / LEDGER_FILE,
        random_state=arguments.seed,
        verbose=1,
    )
    if arguments.n_masks is not None:
        pruner.set_params(n_masks=arguments.n_masks)
    if arguments.max_remove is not None:
        pruner.set_params(max_remove=arguments.max_remove)
    check_model(arguments.model, arguments)
    checked = _check_numbers_early(pruner, arguments.model)
    model, tokenizer = load_model(arguments.model, arguments)
    if not checked:
        _check_numbers(pruner, GameModel.of(model, pruner.layers, pruner.granularity))
    calibration = read_calibration(arguments, tokenizer, model)
    if arguments.estimate:
        cost = pruner.estimate_cost(model, calibration)
        return CommandResult(str(cost), asdict(cost))
    report = pruner.fit(model, calibration).report_
    if is_first_rank():
        report.save(target)
    advice = f"next: layershap prune {arguments.model} --report {target} --n-remove N --out FOLDER"
    return CommandResult(f"{report}\n\nwritten: {target}\n{advice}", {"path": str(target), "report": report})


def _check_numbers_early(pruner: LayerPruner, source: str) -> bool:
    """`_check_numbers` before any weight is read, where a model without weights can be asked; whether it was."""
    from layershap.game.players import GameModel

    if pruner.n_masks is None and pruner.max_remove is None and not pruner.protect:
        return True  # the defaults suit every model
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the loaded model gives the same
            model = skeleton(source)
            found = None if model is None else GameModel.of(model, pruner.layers, pruner.granularity)
    except Exception:
        # What fails without weights (an operation that torch has for values only) may work with them.
        return False
    if found is None:
        return False
    _check_numbers(pruner, found)
    return True


def _check_numbers(pruner: LayerPruner, found: GameModel) -> None:
    """Raise where the numbers that options give don't suit the model's layers: before data is made.

    Raises
    ------
    ValueError
        A layer that the model doesn't have, more layers than can be removed, or too few masks.
    """
    from layershap.fitting.masks import least_masks
    from layershap.fitting.settings import FitSettings
    from layershap.limits import check_max_remove

    try:
        removable = found.removable(pruner.protect)
    except ValueError as error:
        raise ValueError(f"--protect: {error}") from None
    most = check_max_remove(pruner.max_remove, None, removable)
    selector, n_players = FitSettings.of(pruner).selector, int(removable.sum())
    least = least_masks(selector, n_players, most)
    if pruner.n_masks is not None and pruner.n_masks < least:
        lower = least_masks(selector, n_players, 1)
        raise ValueError(
            f"--n-masks must be at least {least} to choose up to {most} of {n_players} removable "
            f"{pruner.granularity}s, got {pruner.n_masks}. Raise it, or leave it out for the method's own number"
            + (f"; a lower --max-remove needs fewer, {lower} for 1" if lower < least else "")
        )

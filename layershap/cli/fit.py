"""``layershap fit``: values of a model's layers, and which to remove for every number."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from layershap.cli.answer import Answer
from layershap.cli.inputs import add_calibration_options, add_model_options, load_model, read_calibration
from layershap.pruner import LayerPruner
from layershap.utilities import KLDivergence, NegativeLogLikelihood, PerplexityRatio

REPORT_FILE = "report.json"
LEDGER_FILE = "ledger.jsonl"

_UTILITIES = {"perplexity-ratio": PerplexityRatio, "nll": NegativeLogLikelihood, "kl": KLDivergence}


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Options of ``fit``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "fit",
        help="estimate what each layer is worth, on calibration text",
        description=(
            "Scores masked models on calibration text and writes OUT/report.json: the layers' values and, for every "
            "number of layers, which to remove. OUT/ledger.jsonl keeps every evaluated mask: an interrupted fit is "
            "resumed by the same command."
        ),
    )
    parser.add_argument("model", metavar="MODEL", help="folder, name on the Hub, or 'bundled'")
    parser.add_argument("--out", type=Path, required=True, help="folder for the report and the ledger")
    parser.add_argument(
        "--method", choices=("default", "paper"), default="default", help="'paper': arXiv 2602.07804 to the letter"
    )
    parser.add_argument("--n-masks", type=int, metavar="M", help="masks to evaluate (default: the method's)")
    parser.add_argument(
        "--max-remove", type=int, metavar="N", help="the most layers to look for (default: two thirds of them)"
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
    add_calibration_options(parser)
    add_model_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> Answer:
    """Fit and write the report."""
    model, tokenizer = load_model(arguments.model, arguments)
    calibration = read_calibration(arguments, tokenizer)
    pruner = LayerPruner.paper() if arguments.method == "paper" else LayerPruner()
    pruner.set_params(
        utility=_UTILITIES[arguments.utility](),
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
    if arguments.estimate:
        cost = pruner.estimate_cost(model, calibration)
        return Answer(str(cost), asdict(cost))
    report = pruner.fit(model, calibration).report_
    path = report.save(arguments.out / REPORT_FILE)
    advice = f"next: layershap prune {arguments.model} --report {path} --n-remove N --out FOLDER"
    return Answer(f"{report}\n\nwritten: {path}\n{advice}", {"path": str(path), "report": report})

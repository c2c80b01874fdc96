"""``layershap fit``: values of a model's layers, and which to remove for every number."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from layershap.calibration import Calibration
from layershap.cli.answer import Answer
from layershap.cli.inputs import add_model_options, load_model, read_texts
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
    parser.add_argument(
        "--text", nargs="+", type=Path, required=True, metavar="FILE", help="calibration text: .txt, .json or .jsonl"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the report and the ledger")
    parser.add_argument(
        "--method", choices=("default", "paper"), default="default", help="'paper': arXiv 2602.07804 to the letter"
    )
    parser.add_argument("--n-masks", type=int, metavar="M", help="masks to evaluate (default: the method's)")
    parser.add_argument(
        "--utility",
        choices=sorted(_UTILITIES),
        default="perplexity-ratio",
        help="what a score is (default: perplexity-ratio)",
    )
    parser.add_argument("--protect", nargs="+", type=int, default=[], metavar="LAYER", help="layers never removed")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    text = parser.add_argument_group("calibration text")
    text.add_argument("--seq-len", type=int, default=128, metavar="T", help="tokens per sequence (default: 128)")
    text.add_argument(
        "--n-sequences", type=int, default=10, metavar="S", help="sequences, at even distances (default: 10)"
    )
    text.add_argument(
        "--bos", choices=("none", "text", "sequence"), default="none", help="where a BOS token goes (default: none)"
    )
    add_model_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> Answer:
    """Fit and write the report."""
    texts = read_texts(arguments.text)
    model, tokenizer = load_model(arguments.model, arguments)
    calibration = Calibration.from_texts(
        texts, tokenizer, seq_len=arguments.seq_len, n_sequences=arguments.n_sequences, bos=arguments.bos
    )
    pruner = LayerPruner.paper() if arguments.method == "paper" else LayerPruner()
    pruner.set_params(
        utility=_UTILITIES[arguments.utility](),
        protect=arguments.protect,
        layers=arguments.layers,
        ledger=arguments.out / LEDGER_FILE,
        random_state=arguments.seed,
        verbose=1,
    )
    if arguments.n_masks is not None:
        pruner.set_params(n_masks=arguments.n_masks)
    report = pruner.fit(model, calibration).report_
    path = report.save(arguments.out / REPORT_FILE)
    advice = f"next: layershap prune {arguments.model} --report {path} --n-remove N --out FOLDER"
    return Answer(f"{report}\n\nwritten: {path}\n{advice}", {"path": str(path), "report": report})

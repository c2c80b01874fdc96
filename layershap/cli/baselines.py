"""``layershap baselines``: what other methods would remove, and what that costs, on the same footing."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from layershap.baselines import (
    SLEB,
    AngularDistance,
    LastLayers,
    RandomLayers,
    RelativeMagnitude,
    ShortenedLlama,
    ShortGPT,
)
from layershap.cli.answer import Answer
from layershap.cli.inputs import (
    add_calibration_options,
    add_model_options,
    load_model,
    read_calibration,
    read_texts,
)
from layershap.comparison import DepthPruningMethod, compare
from layershap.display import DepthCurveDisplay
from layershap.pruner import LayerPruner
from layershap.scoring.perplexity import PERPLEXITY_PROTOCOLS, resolve_protocol

_METHODS: dict[str, Callable[[argparse.Namespace], DepthPruningMethod]] = {
    "layershap": lambda a: LayerPruner(max_remove=max(a.n_remove), random_state=a.seed, layers=a.layers),
    "shortgpt": lambda a: ShortGPT(layers=a.layers),
    "relative-magnitude": lambda a: RelativeMagnitude(layers=a.layers),
    "angular-distance": lambda a: AngularDistance(layers=a.layers),
    "shortened-llama-ppl": lambda a: ShortenedLlama(criterion="perplexity", layers=a.layers),
    "shortened-llama-taylor": lambda a: ShortenedLlama(criterion="taylor", layers=a.layers),
    "sleb": lambda a: SLEB(max_remove=max(a.n_remove), layers=a.layers),
    "last": lambda a: LastLayers(layers=a.layers),
    "random": lambda a: RandomLayers(random_state=a.seed, layers=a.layers),
}


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Options of ``baselines``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "baselines",
        help="set layershap beside other methods: layers, perplexity, cost",
        description=(
            "Fits each method on the same calibration text and measures the perplexity of what it chooses on the same "
            "held-out text, for every number of removed layers."
        ),
    )
    parser.add_argument("model", metavar="MODEL", help="folder, name on the Hub, or 'bundled'")
    parser.add_argument(
        "--n-remove", nargs="+", type=int, required=True, metavar="N", help="numbers of layers to remove"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=list(_METHODS),
        default=list(_METHODS),
        metavar="METHOD",
        help=f"which to fit (default: all): {', '.join(_METHODS)}",
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="perplexity against removed layers, as PNG")
    add_calibration_options(parser)
    held_out = parser.add_argument_group("held-out text")
    held_out.add_argument("--eval-text", nargs="+", type=Path, required=True, metavar="FILE", help="as for --text")
    held_out.add_argument(
        "--protocol", choices=sorted(PERPLEXITY_PROTOCOLS), default="seq128", help="of perplexity (default: seq128)"
    )
    held_out.add_argument("--eval-sequences", type=int, metavar="N", help="sequences to evaluate (default: all)")
    add_model_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> Answer:
    """Fit and compare."""
    model, tokenizer = load_model(arguments.model, arguments)
    protocol = resolve_protocol(arguments.protocol)
    evaluation = protocol.sequences(read_texts(arguments.eval_text), tokenizer, n_sequences=arguments.eval_sequences)
    found = compare(
        model,
        read_calibration(arguments, tokenizer),
        evaluation,
        {name: _METHODS[name](arguments) for name in arguments.methods},
        arguments.n_remove,
        layers=arguments.layers,
    )
    text = f"perplexity on held-out text, protocol {protocol.name}, {evaluation.n_sequences} sequences\n\n{found}"
    data: dict[str, Any] = {"protocol": protocol.name, "records": found.to_records()}
    if arguments.picture is not None:
        arguments.picture.parent.mkdir(parents=True, exist_ok=True)
        display = DepthCurveDisplay.from_comparison(found, ylabel=f"held-out perplexity ({protocol.name})")
        display.plot().figure_.savefig(arguments.picture, dpi=120)
        text += f"\n\nwritten: {arguments.picture}"
        data["picture"] = str(arguments.picture)
    return Answer(text, data)

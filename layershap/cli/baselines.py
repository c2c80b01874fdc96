"""``layershap baselines``: what other methods would remove, and what that costs, on the same footing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from layershap.cli.arguments import UsageError, add_overwrite_option, at_least, path
from layershap.cli.calibration import add_calibration_options, check_calibration_options, read_calibration
from layershap.cli.compensation import COMPENSATIONS, compensation
from layershap.cli.files import read_texts
from layershap.cli.inputs import PROTOCOLS, add_model_options, load_model
from layershap.cli.outputs import check_file
from layershap.cli.result import CommandResult
from layershap.extras import require
from layershap.ranks.launched import is_first_rank

if TYPE_CHECKING:
    from layershap.comparison import DepthPruningMethod

METHODS = (
    "layershap",
    "shortgpt",
    "relative-magnitude",
    "angular-distance",
    "shortened-llama-ppl",
    "shortened-llama-taylor",
    "sleb",
    "last",
    "random",
)


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
        "--n-remove", nargs="+", type=at_least(1), required=True, metavar="N", help="numbers of layers to remove"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=METHODS,
        metavar="METHOD",
        help=f"which to fit (default: all): {', '.join(METHODS)}",
    )
    parser.add_argument(
        "--fixed",
        nargs="+",
        type=int,
        metavar="LAYER",
        help="one method more: layers that you name, the first removed first (a published order, say)",
    )
    parser.add_argument(
        "--compensation",
        nargs="+",
        choices=COMPENSATIONS,
        default=[],
        metavar="NAME",
        help=(
            "each method also with what makes up for its removed layers, measured on the calibration data (default: "
            f"without only): {', '.join(COMPENSATIONS)}"
        ),
    )
    parser.add_argument("--picture", type=path, metavar="FILE", help="perplexity against removed layers, as PNG")
    add_overwrite_option(parser, "replace the picture where it exists")
    add_calibration_options(parser)
    held_out = parser.add_argument_group("held-out text")
    held_out.add_argument("--eval-text", nargs="+", type=path, required=True, metavar="FILE", help="as for --text")
    held_out.add_argument("--protocol", choices=PROTOCOLS, default="seq128", help="of perplexity (default: seq128)")
    held_out.add_argument(
        "--eval-sequences", type=at_least(1), metavar="N", help="sequences to evaluate (default: all)"
    )
    add_model_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> CommandResult:
    """Fit and compare."""
    from layershap.baselines import FixedLayers
    from layershap.calibration import resolve_protocol
    from layershap.comparison import compare
    from layershap.display import DepthCurveDisplay
    from layershap.model.stack import find_layers

    _check_picture(arguments)
    check_calibration_options(arguments)
    held_out = read_texts(arguments.eval_text)
    model, tokenizer = load_model(arguments.model, arguments)
    depth = len(find_layers(model, arguments.layers))
    if max(arguments.n_remove) >= depth:
        raise ValueError(f"--n-remove must leave a layer: the model has {depth}, got {max(arguments.n_remove)}")
    methods = {name: method(name, arguments) for name in arguments.methods}
    if arguments.fixed is not None:
        methods["fixed"] = FixedLayers(arguments.fixed, layers=arguments.layers)
    protocol = resolve_protocol(arguments.protocol)
    evaluation = protocol.sequences(held_out, tokenizer, n_sequences=arguments.eval_sequences)
    found = compare(
        model,
        read_calibration(arguments, tokenizer, model),
        evaluation,
        methods,
        arguments.n_remove,
        compensations={name: compensation(name) for name in arguments.compensation},
        layers=arguments.layers,
    )
    first, *others = found.costs
    tables = [str(found), found.against(first).to_markdown()] if others else [str(found)]
    sequences = f"{evaluation.n_sequences} sequences"
    text = "\n\n".join([f"perplexity on held-out text, protocol {protocol.name}, {sequences}", *tables])
    differences = [
        {"method": name, "n_remove": n, "above": first, "percent": apart.percent, "std_error": apart.percent_error}
        for (name, n), apart in found.differences(first).items()
    ]
    data: dict[str, Any] = {"protocol": protocol.name, "records": found.to_records(), "differences": differences}
    if arguments.picture is not None and is_first_rank():
        arguments.picture.parent.mkdir(parents=True, exist_ok=True)
        display = DepthCurveDisplay.from_comparison(found, ylabel=f"held-out perplexity ({protocol.name})")
        display.plot().figure_.savefig(arguments.picture, dpi=120)
        text += f"\n\nwritten: {arguments.picture}"
        data["picture"] = str(arguments.picture)
    return CommandResult(text, data)


def method(name: str, arguments: argparse.Namespace) -> DepthPruningMethod:
    """The method of this name, not fitted."""
    from layershap import baselines
    from layershap.pruner import LayerPruner

    layers, seed, most = arguments.layers, arguments.seed, max(arguments.n_remove)
    methods: dict[str, DepthPruningMethod] = {
        "layershap": LayerPruner(max_remove=most, random_state=seed, layers=layers),
        "shortgpt": baselines.ShortGPT(layers=layers),
        "relative-magnitude": baselines.RelativeMagnitude(layers=layers),
        "angular-distance": baselines.AngularDistance(layers=layers),
        "shortened-llama-ppl": baselines.ShortenedLlama(criterion="perplexity", layers=layers),
        "shortened-llama-taylor": baselines.ShortenedLlama(criterion="taylor", layers=layers),
        "sleb": baselines.SLEB(max_remove=most, layers=layers),
        "last": baselines.LastLayers(layers=layers),
        "random": baselines.RandomLayers(random_state=seed, layers=layers),
    }
    return methods[name]


def _check_picture(arguments: argparse.Namespace) -> None:
    if arguments.picture is None:
        return
    if arguments.picture.suffix.lower() != ".png":
        raise UsageError(f"--picture must name a .png file, got {arguments.picture}")
    require("matplotlib", "layershap[plot]", "--picture")
    check_file(arguments.picture, arguments.overwrite)

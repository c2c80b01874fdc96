"""``layershap ledger``: what a ledger holds; one ledger of several."""

from __future__ import annotations

import argparse
from typing import Any

from layershap.cli.arguments import UsageError, path
from layershap.cli.result import CommandResult


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Options of ``ledger``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "ledger",
        help="show what a ledger of evaluated masks holds, or make one of several",
        description=(
            "Prints of which model and text a ledger is, and the best evaluated set of each size; no model is loaded. "
            "With --merge all ledgers named, which must be of one model and text, become one new file."
        ),
    )
    parser.add_argument("ledgers", nargs="+", type=path, metavar="FILE", help="ledger.jsonl of `layershap fit`")
    parser.add_argument("--merge", type=path, metavar="OUT", help="write all masks to this new file")
    return parser


def run(arguments: argparse.Namespace) -> CommandResult:
    """Read, and merge if asked to."""
    from layershap.ledger import merge_ledgers, read_ledger
    from layershap.selection.best import best_sets, table_of_sets

    if len(arguments.ledgers) > 1 and arguments.merge is None:
        raise UsageError("several ledgers are read to make one of them: give --merge OUT, or name one")
    merged = arguments.merge is not None
    found = merge_ledgers(arguments.ledgers, arguments.merge) if merged else read_ledger(arguments.ledgers[0])
    scores_M = found.scores()
    fields = found.fingerprint
    about = {
        "model": fields["model"],
        "weights": fields["weights"][:12],
        "precision": fields["dtype"],
        "text": str(fields["calibration"])[:12],
        "sequences": len(found.counts),
        "tokens": int(found.counts.sum()),
        "statistics": ", ".join(fields["statistics"]),
        "masks": len(found.masks),
    }
    table = table_of_sets(found.masks, scores_M)
    head = "\n".join(f"{name}: {value}" for name, value in about.items())
    written = f"\n\nwritten: {arguments.merge}" if merged else ""
    rows = [
        {**dict(zip(table.columns, row, strict=True)), "layers": layers}
        for row, layers in zip(table.rows, best_sets(found.masks, scores_M).values(), strict=True)
    ]
    return CommandResult(f"{head}\n\n{table}{written}", {**about, "best": rows})

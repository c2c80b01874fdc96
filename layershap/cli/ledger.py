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
    import numpy as np

    from layershap.ledger import merge_ledgers, read_ledger
    from layershap.selection.best import best_evaluated
    from layershap.tables import Table

    if len(arguments.ledgers) > 1 and arguments.merge is None:
        raise UsageError("several ledgers are read to make one of them: give --merge OUT, or name one")
    merged = arguments.merge is not None
    found = merge_ledgers(arguments.ledgers, arguments.merge) if merged else read_ledger(arguments.ledgers[0])
    scores_M = found.scores()
    removed_M = (~found.masks).sum(axis=1)
    best = {int(n): best_evaluated(found.masks, scores_M, int(n)) for n in np.unique(removed_M)}
    sets = {n: [int(layer) for layer in np.flatnonzero(~mask_L)] for n, mask_L in best.items() if mask_L is not None}
    counts = {n: int((removed_M == n).sum()) for n in sets}
    highest = {n: float(np.nanmax(scores_M[removed_M == n])) for n in sets}
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
    cells = tuple((n, counts[n], highest[n], ", ".join(map(str, layers))) for n, layers in sets.items())
    table = Table("best evaluated set of each size, on this text", ("removed", "masks", "score", "layers"), cells)
    head = "\n".join(f"{name}: {value}" for name, value in about.items())
    written = f"\n\nwritten: {arguments.merge}" if merged else ""
    rows = [{"removed": n, "masks": counts[n], "score": highest[n], "layers": layers} for n, layers in sets.items()]
    return CommandResult(f"{head}\n\n{table}{written}", {**about, "best": rows})

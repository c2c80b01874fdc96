"""Whether refitting attention's write beside the feed-forward part's gains: `LinearRefit` with and without `o_proj`.

    python -m benchmarks.compensation.attention run --n 6 9
    python -m benchmarks.compensation.attention table --write benchmarks/results/compensation_attention.md

Without the default's sets of SmolLM2's layers, on the mixture of `benchmarks.compensation.compensation`. `LinearRefit`
leaves attention's write as it is unless `writes="all"`, which refits it after the feed-forward part's.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import CACHE, LENGTH, markdown, print_or_write, provenance
from benchmarks.compensation.compensation import sets_of
from benchmarks.leaderboard.board import Board
from benchmarks.real_model.evaluation import test_of
from benchmarks.real_model.results import difference, perplexity
from benchmarks.real_model.subject import MIXTURE, Limits, Subject
from benchmarks.records import append, made_on, read
from layershap import find_layers, remove_layers
from layershap.compensation import LinearRefit, Removal, compensation_record

RECORD = CACHE / "compensation_attention.jsonl"


class AttentionFirst(LinearRefit):
    """`LinearRefit` of attention's write, then of the feed-forward part's, in each layer."""

    def _refits(self, removal: Removal) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        refits, notes = super()._refits(removal)
        return tuple(sorted(refits, key=lambda refit: (refit.place, "mlp" in refit.module))), notes


ALONE = "down_proj"
METHODS = {
    ALONE: LinearRefit(),
    "o_proj, then down_proj": AttentionFirst(writes="all"),
    "down_proj, then o_proj": LinearRefit(writes="all"),
}


def run(options: argparse.Namespace) -> None:
    subject = Subject.load("smollm2", 0, "cpu")
    measures = [each for each in subject.measures(Limits(options.test_sequences, 0)) if "seq2048" not in each.key]
    calibration, stack = subject.calibration(MIXTURE, options.tokens // LENGTH), find_layers(subject.model)
    sets = sets_of(Board.read("smollm2"), "default")
    done = {(row["n"], row["tokens"], row["method"]) for row in read(RECORD)}
    for n in options.n:
        for name, compensation in METHODS.items():
            if (n, options.tokens, name) in done:
                continue
            start = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                small = remove_layers(
                    subject.model, sets[n], stack=stack, check=False, compensation=compensation, calibration=calibration
                )
            seconds, record = time.process_time() - start, compensation_record(small)
            assert record is not None
            row = {
                "n": n,
                "layers": list(sets[n]),
                "tokens": options.tokens,
                "method": name,
                "held_out": [record.loss_before, record.loss_after],
                "seconds": round(seconds, 1),
                "tests": {measure.key: test_of(small, measure) for measure in measures},
            }
            append(RECORD, row)
            print(f"{n} removed, {name}: held-out loss {record.loss_after:.4f}, {seconds:.0f} CPU s", flush=True)


def table(rows: list[dict[str, Any]]) -> str:
    """For each set: perplexities, and how far they are from those of `down_proj` alone."""
    if not rows:
        raise SystemExit("nothing was run yet")
    lines = [made_on(rows), ""]
    texts = list(rows[0]["tests"])
    for n, tokens in dict.fromkeys((row["n"], row["tokens"]) for row in rows):
        found = {row["method"]: row for row in rows if (row["n"], row["tokens"]) == (n, tokens)}
        plain = found[ALONE]
        body = []
        for name, row in found.items():
            cells = [f"{perplexity(row['tests'][key]):.1f}" for key in texts]
            if row is not plain:
                against = [difference(row["tests"][key], plain["tests"][key]) for key in texts]
                cells = [f"{cell} ({each})" for cell, each in zip(cells, against, strict=True)]
            body.append([name, f"{row['held_out'][1]:.3f}", *cells, f"{row['seconds']:.0f}"])
        header = ["refitted", "held-out loss", *texts, "CPU s"]
        removed = " ".join(map(str, plain["layers"]))
        title = f"### {n} removed: {removed}; {tokens:,} tokens, held-out loss before {plain['held_out'][0]:.3f}"
        lines += [title, "", markdown(header, body), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("--n", type=int, nargs="+", default=[6, 9])
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--test-sequences", type=int, default=128, help="half as many of C4 and of the book")
    parser.add_argument("--write", type=Path, help="a page; between its markers <!-- tables: begin --> and end")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.action == "run":
        run(options)
    else:
        print_or_write(f"{provenance()}\n\n{table(read(RECORD))}", options.write)


if __name__ == "__main__":
    main()

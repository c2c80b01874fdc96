"""What the compensations gain: sets of several methods, several amounts and kinds of calibration text.

    python -m benchmarks.compensation.compensation run --n 6 9 --sets default --kinds mixture --tokens 32768
    python -m benchmarks.compensation.compensation table --write benchmarks/results/compensation.md

Texts are those of `benchmarks.real_model`: calibrated on are every second article of WikiText-2's raw test text, or as
much of it as of C4 (the mixture); tested on the articles between them, other C4 text, and a book, a kind that no
calibration has seen. The sets are those of `benchmarks/leaderboard`, chosen on 128 sequences of those articles. Cells
are run in order of their worth: first what the mixture does at the two middle depths of the default's sets, then what
departs from that in one thing, then in two. What `benchmarks.real_model.compare` has tested is taken from its records.
A run that is interrupted goes on where it was (`benchmarks/cache/compensation_MODEL.jsonl`).
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import CACHE, LENGTH, markdown, print_or_write, provenance
from benchmarks.leaderboard.board import Board
from benchmarks.real_model.evaluation import test_of
from benchmarks.real_model.records import layers_key, made_key
from benchmarks.real_model.results import difference, is_task, mean_accuracy, perplexity
from benchmarks.real_model.rows import DEFAULT_REFIT, MANY
from benchmarks.real_model.subject import MIXTURE, OWN_TEXT, Limits, Subject, record_of
from benchmarks.records import STAMP, append, made_on, read
from layershap import find_layers, remove_layers
from layershap.compensation import Compensation, LinearRefit, ReplaceMe, Rescale, compensation_record
from layershap.model.stack import LayerStack

METHODS: dict[str, Compensation | None] = {
    "none": None,
    "Rescale": Rescale(),
    "ReplaceMe": ReplaceMe(),
    "LinearRefit, gaps": LinearRefit(),
    "LinearRefit, all": LinearRefit("all"),
}
KINDS = {"mixture": MIXTURE, "own": OWN_TEXT, "C4": "c4"}
SETS = {
    "default": "layershap, default, 128 sequences",
    "ShortGPT": "ShortGPT, 128 sequences",
    "block": "angular distance, 128 sequences",
    "SLEB": "SLEB, raced, 128 sequences",
}


@dataclass(frozen=True)
class Cell:
    """One model to make and test."""

    layers: tuple[int, ...]
    method: str = "none"
    kind: str = ""
    tokens: int = 0

    @property
    def key(self) -> dict[str, Any]:
        return asdict(self) | {"layers": list(self.layers)}


def sets_of(board: Board, name: str) -> dict[int, tuple[int, ...]]:
    """What a method removes, by number of layers."""
    return {entry.n: tuple(entry.removed) for entry in board.entries if entry.method == SETS[name]}


def cells(options: argparse.Namespace, board: Board, depths: tuple[int, ...]) -> list[Cell]:
    """The whole model and all that is asked for, the most telling first; what several methods choose counts once."""
    middle = depths[1:3]

    def asked() -> Iterator[tuple[int, Cell]]:
        for name in options.sets:
            for n, layers in sets_of(board, name).items():
                if n not in options.n:
                    continue
                departs = (name != "default") + (n not in middle)
                if "none" in options.methods:
                    yield departs, Cell(layers)
                for kind in options.kinds:
                    for tokens in options.tokens:
                        further = departs + (kind != "mixture") + (tokens != 32768)
                        for method in options.methods:
                            if method != "none":
                                yield further + (method == "LinearRefit, all"), Cell(layers, method, kind, tokens)

    ordered = [cell for _, cell in sorted(asked(), key=lambda found: found[0])]
    return list(dict.fromkeys([Cell(()), *ordered]))


def run(options: argparse.Namespace) -> None:
    subject = Subject.load(options.model, 0, "cpu")
    measures = subject.measures(Limits(options.test_sequences, options.questions))
    measures = [measure for measure in measures if "seq2048" not in measure.key]
    record, board = CACHE / f"compensation_{options.model}.jsonl", Board.read(options.model)
    stack = find_layers(subject.model)
    for cell in cells(options, board, subject.depths):
        done = {key for row in rows_of(options.model, board) if row["cell"] == cell.key for key in row["tests"]}
        missing = [measure for measure in measures if measure.key not in done]
        if not missing:
            continue
        start = time.process_time()
        made = made_of(cell, subject, stack)
        seconds = time.process_time() - start
        found = compensation_record(made)
        tests = {measure.key: test_of(made, measure) for measure in missing}
        row = {
            "cell": cell.key,
            "seconds": round(seconds, 1),
            "held_out": None if found is None else [found.loss_before, found.loss_after],
            "changes": [] if found is None else [(change.layer, change.kind) for change in found.changes],
            "tests": tests,
        }
        append(record, row)
        texts = {key: round(perplexity(test), 1) for key, test in tests.items() if not is_task(key)}
        print(json.dumps(cell.key | texts | {"seconds": row["seconds"]}), flush=True)


def made_of(cell: Cell, subject: Subject, stack: LayerStack) -> Any:
    """The model of a cell."""
    if not cell.layers:
        return subject.model
    compensation = METHODS[cell.method]
    text = None if compensation is None else subject.calibration(KINDS[cell.kind], cell.tokens // LENGTH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return remove_layers(
            subject.model, cell.layers, stack=stack, check=False, compensation=compensation, calibration=text
        )


def rows_of(model: str, board: Board) -> list[dict[str, Any]]:
    """One row for each cell, with all of its tests."""
    merged: dict[str, dict[str, Any]] = {}
    for row in [*tested_before(model, board), *read(CACHE / f"compensation_{model}.jsonl")]:
        key = json.dumps(row["cell"])
        merged[key] = row | {"tests": merged.get(key, {}).get("tests", {}) | row["tests"]}
    return list(merged.values())


def tested_before(model: str, board: Board) -> Iterator[dict[str, Any]]:
    """The cells among what `benchmarks.real_model` has tested: sets as they are, and the default's sets refitted."""
    default = sets_of(board, "default")
    sets = {layers for name in SETS for layers in sets_of(board, name).values()}
    known = {layers_key(list(layers)): Cell(layers) for layers in [(), *sets]}
    refitted = ("LinearRefit, gaps", "mixture", 2 * MANY * LENGTH)
    known |= {made_key(DEFAULT_REFIT, n): Cell(layers, *refitted) for n, layers in default.items()}
    for test in read(record_of(model, 0, "tests")):
        if test["set"] in known and "seq2048" not in test["measure"]:
            yield {
                "cell": known[test["set"]].key,
                "seconds": test.get("made_cpu_seconds", 0.0),
                "tests": {test["measure"]: test},
                **{key: test[key] for key in STAMP},
            }


def table(model: str) -> str:
    """One table for each set of layers: perplexities by method, amount and kind of text."""
    board = Board.read(model)
    found = rows_of(model, board)
    if not found:
        raise SystemExit(f"nothing was run for {model} yet")
    measures = list(dict.fromkeys(key for row in found for key in row["tests"]))
    texts, tasks = ([key for key in measures if is_task(key) == task] for task in (False, True))
    whole = next((row for row in found if not row["cell"]["layers"]), None)
    lines = [made_on(found), ""]
    if whole is not None:
        figures = [f"{key}: {perplexity(whole['tests'].get(key)):.1f}" for key in texts]
        lines += [f"Perplexity of the whole model on {'; '.join(figures)}.", ""]
    made = {tuple(row["cell"]["layers"]) for row in found if row["cell"]["method"] != "none"}
    sets = sorted(made, key=lambda layers: (len(layers), layers))
    for layers in sets:
        of_set = [row for row in found if tuple(row["cell"]["layers"]) == layers]
        names = [name for name in SETS if layers in sets_of(board, name).values()]
        plain = next((row for row in of_set if row["cell"]["method"] == "none"), None)
        ordered = sorted(of_set, key=_order)
        header = ["compensation", "calibration", "tokens", *(key.split(",")[0] for key in texts)]
        header += ["tasks"] * bool(tasks) + ["CPU s"]
        body = [
            [
                row["cell"]["method"],
                row["cell"]["kind"] or "-",
                f"{row['cell']['tokens']:,}" if row["cell"]["tokens"] else "-",
                *(figure(row, plain, key) for key in texts),
                *([accuracy(row, plain, tasks)] if tasks else []),
                f"{row['seconds']:.0f}",
            ]
            for row in ordered
        ]
        removed = " ".join(map(str, layers))
        lines += [f"### {len(layers)} removed: {removed} ({', '.join(names)})", "", markdown(header, body), ""]
    return "\n".join(lines)


def _order(row: dict[str, Any]) -> tuple[bool, int, int, int]:
    cell = row["cell"]
    kind = list(KINDS).index(cell["kind"]) if cell["kind"] else 0
    return cell["method"] != "none", kind, -cell["tokens"], list(METHODS).index(cell["method"])


def figure(row: dict[str, Any], plain: dict[str, Any] | None, key: str) -> str:
    """Perplexity, and by how many percent it differs from that of the model that nothing makes up for."""
    test, before = row["tests"].get(key), None if plain is None else plain["tests"].get(key)
    if test is None:
        return "-"
    text = f"{perplexity(test):,.1f}"
    return text if before is None or row is plain else f"{text} ({difference(test, before)})"


def accuracy(row: dict[str, Any], plain: dict[str, Any] | None, tasks: list[str]) -> str:
    """Mean accuracy of the tasks, and its change in points against the model that nothing makes up for."""
    tests, before = ([found["tests"].get(key) for key in tasks] for found in (row, plain or row))
    mean, error = mean_accuracy(tests, "acc")
    if mean != mean:
        return "-"
    if plain is None or row is plain or None in before:
        return f"{100 * mean:.1f} ± {100 * error:.1f}"
    changes: list[dict[str, Any] | None] = [
        {"acc": np.subtract(new["acc"], old["acc"])} for new, old in zip(tests, before, strict=True)
    ]
    change, error = mean_accuracy(changes, "acc")
    return f"{100 * mean:.1f} ({100 * change:+.1f} ± {100 * error:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("--model", default="smollm2", choices=["smollm2", "gpt2"])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--n", type=int, nargs="+", default=[3, 6, 9, 12])
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 32768, 65536])
    parser.add_argument("--kinds", nargs="+", default=["mixture", "own"], choices=KINDS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--test-sequences", type=int, default=128, help="half as many of C4 and of the book")
    parser.add_argument("--questions", type=int, default=0, help="of each of six tasks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, help="a page; between its markers <!-- tables: begin --> and end")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.action == "run":
        run(options)
    else:
        print_or_write(f"{provenance()}\n\n{table(options.model)}", options.write)


if __name__ == "__main__":
    main()

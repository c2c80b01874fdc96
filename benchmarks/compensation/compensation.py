"""What the compensations gain: sets of several methods, several amounts and kinds of calibration text.

    python -m benchmarks.compensation.compensation run --sets default --n 6 9 --tokens 32768
    python -m benchmarks.compensation.compensation table --write benchmarks/results/compensation.md

On SmolLM2-135M-Instruct (bfloat16). Calibration: WikiText-2's validation text, alone or half of it C4. Test:
WikiText-2's raw test text, other C4 text, and books, a kind that no calibration has seen. Perplexities are `seq128`.
A run that is interrupted goes on where it was (`benchmarks/cache/compensation.jsonl`).
"""

from __future__ import annotations

import argparse
import json
import lzma
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common import (
    CACHE,
    DATA,
    LENGTH,
    MODELS,
    markdown,
    packed,
    perplexity,
    print_or_write,
    provenance,
    sequences,
)
from benchmarks.records import append, read
from layershap import Calibration, find_layers, remove_layers
from layershap.baselines import ShortGPT
from layershap.compensation import Compensation, LinearRefit, ReplaceMe, Rescale, compensation_record
from layershap.datasets import load_smollm2

RECORD = CACHE / "compensation.jsonl"
METHODS: dict[str, Compensation | None] = {
    "none": None,
    "Rescale": Rescale(),
    "ReplaceMe": ReplaceMe(),
    "LinearRefit, gaps": LinearRefit(),
    "LinearRefit, all": LinearRefit("all"),
}
KINDS = ("mixture", "WikiText-2", "C4")
SETS = ("default", "SLEB", "ShortGPT", "block")


def texts(tokenizer: Any) -> tuple[dict[str, Calibration], dict[str, Calibration]]:
    """Calibration sequences and test sequences by kind, disjoint."""
    c4 = sequences(packed("c4-sample"), tokenizer, None)
    tested = np.linspace(0, c4.n_sequences - 1, 64).round().astype(int)
    with lzma.open(DATA / "books.jsonl.xz", "rt", encoding="utf-8") as file:
        books = [json.loads(line) for line in file]
    calibration = {
        "WikiText-2": sequences(packed("wikitext2-valid"), tokenizer, None),
        "C4": rows(c4, np.setdiff1d(np.arange(c4.n_sequences), tested)),
    }
    test = {
        "WikiText-2": sequences(packed("wikitext2-raw-test"), tokenizer, 64),
        "C4": rows(c4, tested),
        "books": sequences([chapter for book in books for chapter in book["chapters"][:2]], tokenizer, 64),
    }
    return calibration, test


def layer_sets(model: nn.Module, text: Calibration) -> dict[str, dict[int, list[int]]]:
    """What each method removes: the default's and SLEB's sets are those of `benchmarks.selection.generalisation`."""
    found = read(CACHE / "generalisation_smollm2.jsonl")
    names = {"layershap, default": "default", "greedy (SLEB without barriers)": "SLEB"}
    sets = {
        names[row["method"]]: {int(n): layers for n, layers in row["sets"].items()}
        for row in found
        if row["draw"] == 0 and row["method"] in names
    }
    if set(sets) != set(names.values()):
        raise SystemExit("run benchmarks.selection.generalisation first: --model smollm2 --draws 0")
    short = ShortGPT().fit(model, text)
    sets["ShortGPT"] = {n: short.removed_layers(n) for n in sets["default"]}
    sets["block"] = {n: list(range(28 - n, 28)) for n in sets["default"]}
    return sets


def rows(calibration: Calibration, chosen: Any) -> Calibration:
    return calibration.take(torch.from_numpy(np.asarray(chosen)))


def calibration_of(kinds: list[Calibration], n_tokens: int) -> Calibration:
    """An equal share of each kind, at even distances, in turn."""
    each = n_tokens // LENGTH // len(kinds)
    parts = [rows(kind, np.linspace(0, kind.n_sequences - 1, each).round().astype(int)) for kind in kinds]
    ids = torch.stack([part.ids_ST for part in parts], dim=1).flatten(0, 1)
    return Calibration(ids, ids.clone())


def run(options: argparse.Namespace) -> None:
    model, tokenizer = load_smollm2(MODELS / "smollm2")
    calibration, test = texts(tokenizer)
    stack = find_layers(model)
    sets = layer_sets(model, calibration_of(list(calibration.values()), 16384))
    done = {tuple(row["key"]) for row in read(RECORD)}
    for name in options.sets:
        for n in options.n:
            for kind in options.kinds:
                chosen = list(calibration.values()) if kind == "mixture" else [calibration[kind]]
                for n_tokens in options.tokens:
                    for method in options.methods:
                        key = (name, n, *(("", 0) if method == "none" else (kind, n_tokens)), method)
                        if key in done:
                            continue
                        done.add(key)
                        start = time.process_time()
                        compensation = METHODS[method]
                        with warnings.catch_warnings():
                            warnings.simplefilter("ignore")
                            small = remove_layers(
                                model,
                                sets[name][n],
                                stack=stack,
                                check=False,
                                compensation=compensation,
                                calibration=calibration_of(chosen, n_tokens) if compensation else None,
                            )
                        seconds = time.process_time() - start
                        record = compensation_record(small)
                        row = {
                            "key": key,
                            "layers": sets[name][n],
                            "seconds": seconds,
                            "held_out": None if record is None else [record.loss_before, record.loss_after],
                            "changes": [] if record is None else [(c.layer, c.kind) for c in record.changes],
                            **{text: perplexity(small, found) for text, found in test.items()},
                        }
                        print(json.dumps(row), flush=True)
                        append(RECORD, row)


def table() -> str:
    """One table for each set of layers: perplexities by method, amount and kind of text."""
    found = read(RECORD)
    lines = []
    for name, n in dict.fromkeys((row["key"][0], row["key"][1]) for row in found):
        of_set = [row for row in found if row["key"][:2] == [name, n]]
        body = [
            [
                row["key"][4],
                row["key"][2] or "-",
                f"{row['key'][3]:,}" if row["key"][3] else "-",
                *(f"{row[text]:.1f}" for text in ("WikiText-2", "C4", "books")),
                f"{row['seconds']:.0f}",
            ]
            for row in of_set
        ]
        header = ["compensation", "calibration", "tokens", "WikiText-2", "C4", "books", "CPU s"]
        lines += [f"### {name}, {n} of 30 removed: {of_set[0]['layers']}", "", markdown(header, body), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--n", type=int, nargs="+", default=[3, 6, 9, 12])
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 32768, 131072])
    parser.add_argument(
        "--kinds", nargs="+", default=["mixture", "WikiText-2"], choices=["mixture", "WikiText-2", "C4"]
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, help="a page; between its markers <!-- tables: begin --> and end")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.action == "run":
        run(options)
    else:
        print_or_write(f"{provenance()}\n\n{table()}", options.write)


if __name__ == "__main__":
    main()

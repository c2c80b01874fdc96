"""Every method on one published model: perplexities, tasks, costs, speed.

    python -m benchmarks.real_model.compare run
    python -m benchmarks.real_model.compare run --model FOLDER --device cuda --full
    python -m benchmarks.real_model.compare table --write docs/real_models.md
    python -m benchmarks.real_model.compare readme --write README.md

`run` fits the rows, cheapest first, tests what they chose and times the smaller models; `fit`, `test` and `speed` do
one of these, and may run side by side. All of it goes on where it was interrupted: masks are kept in ledgers, finished
rows and tests in `benchmarks/cache/real_model_*`. `table` prints what is finished, and names what isn't; `readme` a few
rows of it. By default 128 sequences of WikiText-2's test text at even distances are tested, 64 of C4 and of a book, 8
of 2,048 tokens, and 100 questions of each task, which take two minutes of a core for a set of SmolLM2's layers;
`--full` takes all. What can't be done is left out, and its reason is told, kept in `..._refusals.jsonl` and printed
with the table. Where memory was short it is tried again by the next run; what a method refuses isn't, unless that file
is deleted.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import device, print_or_write, provenance
from benchmarks.real_model.attempts import RECORD, reasons, refused
from benchmarks.real_model.evaluation import run_tests
from benchmarks.real_model.fits import fit_rows
from benchmarks.real_model.readme import readme_table
from benchmarks.real_model.records import made_key
from benchmarks.real_model.results import Results, how_made
from benchmarks.real_model.rows import DEFAULT_MANY, Row, on_other_text, rows
from benchmarks.real_model.subject import Limits, Subject, record_of
from benchmarks.real_model.tables import tables
from benchmarks.real_model.timing import time_models
from benchmarks.records import read
from benchmarks.selection.generalisation import name_of
from layershap.cli.arguments import at_least
from layershap.fingerprint.weights import weights_digest

TITLES = {"smollm2": "SmolLM2-135M-Instruct, 30 Llama layers, bfloat16", "gpt2": "the bundled GPT-2, 12 layers"}
MARKERS = {"table": "tables", "readme": "real model"}
DTYPES = ("auto", "bfloat16", "float16", "float32")
STAGE = 8
"""Rows that `run` fits before it tests what they chose."""


def work(options: argparse.Namespace) -> None:
    """`run`, `fit`, `test` or `speed`."""
    subject = Subject.load(options.model, options.draw, options.device, options.n_remove, options.dtype)
    check_model(subject)
    check_depths(subject, fits=options.action in ("run", "fit"))
    if options.action == "speed":
        time_models(subject)
        return
    chosen, measures = chosen_rows(subject, options), []
    if options.action in ("run", "test"):
        limits = Limits(None, None) if options.full else Limits(options.test_sequences, options.questions)
        measures = subject.measures(limits)
    for start in range(0, len(chosen), STAGE):
        if options.action in ("run", "fit"):
            fit_rows(subject, chosen[start : start + STAGE])
        if options.action == "run":
            run_tests(subject, measures, chosen[: start + STAGE])
    if options.action == "test":
        run_tests(subject, measures, chosen)
    fitted = {row["key"] for row in read(subject.record("fits"))}
    if options.action == "run" and DEFAULT_MANY in fitted and "speed" not in refused(subject):
        time_models(subject)


def check_model(subject: Subject) -> None:
    """Records go by the folder's name, which another model's folder may have, too."""
    record, weights = subject.record("model"), weights_digest(subject.model)
    others = [row["weights"] for row in read(record) if row["weights"] != weights]
    if others:
        raise SystemExit(
            f"the records beside {record} are of another model with that name, whose weights have the SHA-256 "
            f"{others[0]}, these have {weights}; rename the model's folder, or move the records (the same weights in "
            "another --dtype are another model)"
        )
    if not read(record):
        subject.add("model", {"weights": weights})


def check_depths(subject: Subject, *, fits: bool) -> None:
    """Finished rows are never fitted again, so all must have the sets that are asked for; new rows no fewer."""
    depths, most = set(subject.depths), subject.n_layers - 1
    if not all(0 < n <= most for n in depths):
        raise SystemExit(f"--n-remove must lie in [1, {most}] for {subject.n_layers} layers, got {sorted(depths)}")
    record = subject.record("fits")
    for row in read(record):
        finished = {int(n) for n in row["sets"]}
        if finished and not (finished == depths if fits else finished.issuperset(depths)):
            raise SystemExit(
                f"the finished rows in {record} are of {sorted(finished)} removed layers, asked for are "
                f"{sorted(depths)}; give the same --n-remove, or move the records and begin anew"
            )


def chosen_rows(subject: Subject, options: argparse.Namespace) -> list[Row]:
    """All rows, or those whose key contains one of the given texts."""
    if "chat" in options.calibrate_on and not subject.tokenizer.chat_template:
        raise SystemExit("--calibrate-on chat needs a model that chats; this one's tokenizer has no chat template")
    every = [*rows(subject), *on_other_text(subject, options.calibrate_on)]
    named = {found["key"] for found in read(subject.record("rows"))}
    for key in dict.fromkeys(row.key for row in every if row.key not in named):
        subject.add("rows", {"key": key})
    if not options.rows:
        return every
    found = [row for row in every if any(text in row.key for text in options.rows)]
    if not found:
        raise SystemExit(f"no row is named like {options.rows}; there are: {'; '.join(row.key for row in every)}")
    return found


def printed(options: argparse.Namespace) -> str:
    """`table` or `readme`: what the records hold, and which rows of the whole they lack."""
    name = name_of(options.model)
    kinds = ("fits", "tests", "speed", RECORD)
    fits, tests, speed, refusals = (read(record_of(name, options.draw, kind)) for kind in kinds)
    if not fits:
        raise SystemExit(f"nothing was run for {name} yet")
    measures = most_tested(tests)
    results = Results.of(fits, tests).tested(measures)
    if options.action == "readme":
        return readme_table(TITLES.get(name, name), results, measures)
    if not results.fits:
        raise SystemExit(f"no choice of {name}'s rows was tested yet; `test` does")
    left_out = {what: reason for what, reason in reasons(refusals).items() if what not in results.fits}
    every = list(dict.fromkeys(row["key"] for row in read(record_of(name, options.draw, "rows"))))
    made = {key for key in every if any(made_key(key, n) in left_out for n in results.depths)}
    missing = [key for key in every if key not in results.fits and key not in left_out and key not in made]
    shown = [*results.fits.values(), *results.tests.values(), *speed]
    return f"Printed by {provenance()}.\n\n{how_made(shown)}\n\n{tables(results, measures, missing, left_out, speed)}"


def most_tested(tests: list[dict[str, Any]]) -> list[str]:
    """Of each text and task the amount on which the most sets were tested; the larger one of two with as many."""
    counts = Counter(row["measure"] for row in tests)

    def rank(measure: str) -> tuple[int, int]:
        return counts[measure], int(measure.rpartition(", ")[2].split()[0])

    best: dict[str, str] = {}
    for measure in counts:
        name = measure.rpartition(", ")[0]
        if name not in best or rank(measure) > rank(best[name]):
            best[name] = measure
    return list(best.values())


def parsed() -> argparse.Namespace:
    """The command line: every action has the options that it heeds, others are wrong usage."""
    common, working, choosing, testing = (argparse.ArgumentParser(add_help=False) for _ in range(4))
    common.add_argument("--model", default="smollm2", help="smollm2, gpt2, a folder with a checkpoint, or a GGUF file")
    common.add_argument("--draw", type=at_least(0), default=0, help="which sequences are calibrated on")
    working.add_argument("--n-remove", type=int, nargs="+", help="default: a tenth, two, three, four tenths of all")
    working.add_argument("--device", type=device, default="cpu")
    working.add_argument("--dtype", default="auto", choices=DTYPES, help="of the weights; default: the checkpoint's")
    working.add_argument("--threads", type=at_least(1), default=1)
    choosing.add_argument("--rows", nargs="+", help="only rows whose names contain one of these texts")
    choosing.add_argument("--calibrate-on", nargs="+", default=[], choices=["c4", "book", "chat", "tokenised"])
    testing.add_argument("--test-sequences", type=at_least(1), default=128)
    testing.add_argument("--questions", type=at_least(0), default=100)
    testing.add_argument("--full", action="store_true", help="test on whole texts and all questions")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("run", parents=[common, working, choosing, testing], help="fit, test and time")
    actions.add_parser("fit", parents=[common, working, choosing], help="what each row removes")
    actions.add_parser("test", parents=[common, working, choosing, testing], help="what the finished rows are worth")
    actions.add_parser("speed", parents=[common, working], help="time the default's smaller models")
    for action, marker in MARKERS.items():
        printing = actions.add_parser(action, parents=[common], help="print what the records hold")
        printing.add_argument("--write", type=Path, help=f"a page; between its markers, as <!-- {marker}: begin -->")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.action in MARKERS:
        print_or_write(printed(options), options.write, MARKERS[options.action])
        return
    torch.set_num_threads(options.threads)
    work(options)


if __name__ == "__main__":
    main()

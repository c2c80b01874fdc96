"""Fit the rows that aren't finished: the sets that each chooses, and what that cost."""

from __future__ import annotations

import time
import warnings
from typing import Any

from benchmarks.common import CACHE
from benchmarks.real_model.attempts import RECORD, attempt, leave_out, reasons, refused
from benchmarks.real_model.rows import Row
from benchmarks.real_model.subject import OWN_TEXT, Subject
from benchmarks.records import read
from benchmarks.selection.oracle import Spent, counted
from layershap import LayerPruner, ShapleyRanking


def fit_rows(subject: Subject, rows: list[Row]) -> None:
    """Each row's record is written when it is finished; the masks of an unfinished one are in its ledger. What a row
    can't do is told and recorded, and the next one follows.
    """
    record = subject.record("fits")
    for row in rows:
        done = {found["key"]: found for found in read(record)}
        if row.key in done or row.key in refused(subject):
            continue
        if not row.compensates:
            with attempt(subject, row.key):
                fit_row(subject, row)
        elif row.compensates in done:
            # What compensating costs is known when the models are made, to be tested.
            cost = {name: done[row.compensates][name] for name in COSTS}
            write(subject, {"key": row.key, "sets": {}, "compensates": row.compensates} | cost)
        elif row.compensates in reasons(read(subject.record(RECORD))):
            reason = f"its layers are those of {row.compensates}, which was left out"
            leave_out(subject, row.key, reason, again=row.compensates not in refused(subject))
        else:
            print(f"{row.key}: waits for {row.compensates}", flush=True)


COSTS = ("masks", "layer_run_tokens", "seconds", "cpu_seconds", "whole")


def fit_row(subject: Subject, row: Row) -> None:
    CACHE.mkdir(exist_ok=True)
    calibration = subject.calibration(row.text, row.sequences) if row.sequences else None
    start, cpu = time.perf_counter(), time.process_time()
    with counted() as spent, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = row.make().fit(subject.model, calibration)
        sets = {} if row.made else chosen(fitted, subject.depths)
    seconds = time.perf_counter() - start, time.process_time() - cpu
    found = {"key": row.key, "sets": sets} | costs(subject, row, fitted, spent, seconds)
    if isinstance(fitted, LayerPruner):
        found |= {
            "values": [round(float(value), 6) for value in fitted.contributions_],
            "held_out_r2": float(fitted.diagnostics_["held_out_r2"]),
        }
    write(subject, found)
    if row.ranked:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted.set_params(selector=ShapleyRanking())
            write(subject, found | {"key": row.ranked_key, "sets": chosen(fitted, subject.depths)})


def write(subject: Subject, found: dict[str, Any]) -> None:
    subject.add("fits", found)
    print(f"{found['key']}: {found['sets']}, {found['cpu_seconds']:.0f} CPU s", flush=True)


def chosen(fitted: Any, depths: tuple[int, ...]) -> dict[int, list[int] | None]:
    """The sets by number removed; None where the method can't remove so many."""
    found: dict[int, list[int] | None] = {}
    for n in depths:
        try:
            found[n] = [int(layer) for layer in fitted.removed_layers(n)]
        except ValueError:
            found[n] = None
    return found


def costs(subject: Subject, row: Row, fitted: Any, spent: Spent, seconds: tuple[float, float]) -> dict[str, Any]:
    """Masks and layer runs x tokens count as if no ledger had been there; seconds are of this process, to which those
    of the row whose ledger this one continues are added. `whole` is False where a ledger supplied anything else, so
    that the seconds are less than a first run's.
    """
    runs, paid = spent.layer_run_tokens, spent.paid
    if not runs and row.sequences:
        # Methods that read hidden states or gradients play no game; they count their runs themselves.
        calibration = subject.calibration(row.text, row.sequences)
        runs = paid = fitted.diagnostics_["layer_runs"] * calibration.ids_ST.numel()
    before = {done["key"]: done for done in read(subject.record("fits"))}.get(row.follows)
    wall, cpu = seconds
    whole = paid == runs
    if before is not None:
        wall, cpu, whole = wall + before["seconds"], cpu + before["cpu_seconds"], before["whole"]
    elif not paid and (earlier := of_generalisation(subject, row)):
        wall, cpu, whole = earlier["seconds"], earlier["cpu_seconds"], True
    return {"masks": spent.masks, "layer_run_tokens": runs, "seconds": wall, "cpu_seconds": cpu, "whole": whole}


def of_generalisation(subject: Subject, row: Row) -> dict[str, Any] | None:
    """The same fit in the record of `benchmarks.selection.generalisation`, which filled the ledger."""
    rows = read(CACHE / f"generalisation_{subject.problem.name}.jsonl")
    wanted = (subject.draw, row.sequences, row.name)
    same = [found for found in rows if (found["draw"], found["sequences"], found["method"]) == wanted]
    return same[0] if same and row.text == OWN_TEXT else None

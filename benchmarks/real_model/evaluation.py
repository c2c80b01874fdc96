"""Test what the finished rows chose: every distinct set once on each text and task, as masks of one game."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np

from benchmarks.real_model.attempts import attempt, refused
from benchmarks.real_model.records import layers_key, made_key
from benchmarks.real_model.rows import Row
from benchmarks.real_model.subject import Measure, Subject
from benchmarks.records import read
from layershap import LayerGame
from layershap.forward.unmasked import sequence_statistics
from layershap.masks import without
from layershap.protocols import QuestionUtility, SequenceStatistics

CHUNK = 8
"""Sets tested in one call, which are lost where a run is interrupted. Neighbours in order share their first layers."""


def run_tests(subject: Subject, measures: list[Measure], rows: list[Row]) -> None:
    """Test the dense model and the choices of the finished rows on what they weren't tested on yet."""
    finished, never = {done["key"]: done for done in read(subject.record("fits"))}, refused(subject)
    for measure in measures:
        if measure.key in never:
            continue
        done = {row["set"] for row in read(subject.record("tests")) if row["measure"] == measure.key}
        sets = {layers_key(removed): removed for removed in wanted(finished, rows) if removed is not None}
        with attempt(subject, measure.key):
            _test_sets(subject, measure, [removed for key, removed in sets.items() if key not in done])
    for row in rows:
        if row.made and row.key in finished:
            _test_made(subject, measures, row)


def wanted(finished: dict[str, dict[str, Any]], rows: list[Row]) -> list[list[int] | None]:
    """The dense model's empty set, and the rows' sets."""
    keys = [key for row in rows for key in (row.key, row.ranked_key) if key in finished]
    return [[], *(removed for key in keys for removed in finished[key]["sets"].values())]


def _test_sets(subject: Subject, measure: Measure, sets: list[list[int]]) -> None:
    if not sets:
        return
    masks = np.array([without(removed, subject.n_layers) for removed in sets])
    order = np.lexsort(~masks.T[::-1])
    with LayerGame(subject.model, measure.calibration) as game:
        for part in np.split(order, range(CHUNK, len(order), CHUNK)):
            start = time.process_time()
            found = game.statistics(masks[part])
            for place, index in enumerate(part):
                _write(subject, measure, layers_key(sets[index]), _values(measure, found, place))
            seconds = time.process_time() - start
            print(f"{measure.key}: {len(part)} sets, {seconds / len(part):.1f} CPU s each", flush=True)


def _test_made(subject: Subject, measures: list[Measure], row: Row) -> None:
    """One model at a time, fitted again: what was made of it is not kept."""
    never = refused(subject)
    done = {(found["measure"], found["set"]) for found in read(subject.record("tests"))}
    missing = {
        n: [measure for measure in measures if (measure.key, made_key(row.key, n)) not in done] for n in subject.depths
    }
    fitted: Any = None
    for n, left in missing.items():
        key = made_key(row.key, n)
        if not left or key in never:
            continue
        with attempt(subject, key):
            if fitted is None:
                fitted = row.make().fit(subject.model, subject.calibration(row.text, row.sequences))
            _test_transformed(subject, left, fitted, n, key)


def _test_transformed(subject: Subject, measures: list[Measure], fitted: Any, n_remove: int, key: str) -> None:
    """A function of its own, so that its model is gone before the next one is made."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = fitted.transform(subject.model, n_remove)
    made = {"made_cpu_seconds": round(time.process_time() - start, 1)}
    for measure in measures:
        _write(subject, measure, key, test_of(model, measure) | made)
    print(f"{key}: tested", flush=True)


def test_of(model: Any, measure: Measure) -> dict[str, Any]:
    """The test of a model as it is, as records hold it.

    By the model's own forward, which gives the same bits as a game that keeps all layers (SmolLM2 without 12 layers, in
    bfloat16: no difference in 256 sequences) for half of the time: a game runs the whole model once to observe it.
    """
    rules = () if measure.task is None else measure.task.metrics.values()
    statistics = {name for rule in rules if isinstance(rule, QuestionUtility) for name in rule.statistics}
    return _values(measure, sequence_statistics(model, measure.calibration, sorted(statistics) or ("nll",)), 0)


def _values(measure: Measure, found: SequenceStatistics, place: int) -> dict[str, Any]:
    """Negative log-likelihood of each sequence in nats, with the number of scored tokens; of a task, what is right."""
    if measure.task is None:
        return {"nll": np.round(found.sums["nll"][place], 3).tolist(), "tokens": int(found.counts.sum())}
    metrics = measure.task.metrics.items()
    right = {name: rule.per_question(found)[place] for name, rule in metrics if isinstance(rule, QuestionUtility)}
    # A model that breaks answers nothing right.
    return {metric: np.nan_to_num(values).astype(int).tolist() for metric, values in right.items()}


def _write(subject: Subject, measure: Measure, key: str, values: dict[str, Any]) -> None:
    subject.add("tests", {"measure": measure.key, "set": key} | values)

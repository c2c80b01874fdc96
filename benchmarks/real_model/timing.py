"""Size, prefill and decode of the dense model and of the default's choices, in turns on one machine."""

from __future__ import annotations

from statistics import median
from typing import Any

import torch

from benchmarks.real_model.attempts import attempt
from benchmarks.real_model.rows import DEFAULT_MANY
from benchmarks.real_model.subject import Subject
from benchmarks.records import read
from layershap import find_layers
from layershap.report import SpeedRecord, measure_speed
from layershap.targets.timing import pruned_view

BATCH_SIZES = (1, 8)
RATES = ("prefill_tokens_per_second", "decode_tokens_per_second")


def time_models(subject: Subject, key: str = DEFAULT_MANY, *, repeats: int = 5) -> None:
    """Once for each device, at every other number of removed layers (6 and 12 of 30), or at the single one asked for.

    The smaller models share the weights of the whole one, so they take no memory beside.
    """
    sets = next((row["sets"] for row in read(subject.record("fits")) if row["key"] == key), None)
    if sets is None:
        raise SystemExit(f"speed times the sets of {key!r}, which isn't fitted yet; `fit --rows '{key}'` does that")
    chosen = {n: sets[str(n)] for n in subject.depths[1::2] or subject.depths if sets[str(n)] is not None}
    depths = [0, *chosen]
    if any(row.get("device") == subject.device and set(depths) <= timed(row) for row in read(subject.record("speed"))):
        return
    with attempt(subject, "speed"):
        stack = find_layers(subject.model)
        models = [subject.model, *(pruned_view(subject.model, stack, layers) for layers in chosen.values())]
        rounds = [measure_speed(models, batch_sizes=BATCH_SIZES, repeats=1) for _ in range(repeats)]
        records = [
            {"n_remove": n, **sizes(model), **summary(list(timings))}
            for index, (n, model) in enumerate(zip(depths, models))
            for timings in zip(*(found[index] for found in rounds))
        ]
        first = rounds[0][0][0]
        what = (
            f"sets of {key}; medians of {repeats} runs in turns, {first.prompt_tokens} tokens of prompt, "
            f"{first.new_tokens} new ones, {torch.get_num_threads()} threads"
        )
        subject.add("speed", {"what": what, "records": records})
        print(what, flush=True)


def timed(row: dict[str, Any]) -> set[int]:
    """The numbers of removed layers that a record has the speed of."""
    return {record["n_remove"] for record in row["records"]}


def summary(timings: list[SpeedRecord]) -> dict[str, Any]:
    """Of one model and batch size: median, smallest and largest rate, as far as they were measured."""
    found: dict[str, Any] = {"batch_size": timings[0].batch_size}
    for rate in RATES:
        values = [value for timing in timings if (value := getattr(timing, rate)) is not None]
        found[rate] = median(values) if values else None
        found[f"{rate}_range"] = [min(values), max(values)] if len(values) > 1 else None
    return found


def sizes(model: Any) -> dict[str, int]:
    parameters = list(model.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "bytes": sum(p.numel() * p.element_size() for p in parameters),
    }

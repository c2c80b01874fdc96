"""Size, prefill and decode of the dense model and of the default's choices, in turns on one machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from benchmarks.real_model.rows import DEFAULT_MANY
from benchmarks.real_model.subject import Subject
from benchmarks.records import append, read
from layershap import remove_layers
from layershap.report import measure_speed

BATCH_SIZES = (1, 8)


def time_models(subject: Subject, key: str = DEFAULT_MANY, *, repeats: int = 5) -> None:
    """At every other number of removed layers (6 and 12 of 30), once the row is finished."""
    finished = {row["key"]: row for row in read(subject.record("fits"))}
    if key not in finished or read(subject.record("speed")):
        return
    depths = [0, *subject.depths[1::2]]
    models = [subject.model]
    models += [remove_layers(subject.model, finished[key]["sets"][str(n)]) for n in depths[1:]]
    speeds = measure_speed(models, batch_sizes=BATCH_SIZES, repeats=repeats)
    records = [
        {"n_remove": n, **sizes(model), **asdict(record)}
        for n, model, found in zip(depths, models, speeds)
        for record in found
    ]
    first = records[0]
    what = (
        f"sets of {key}; medians of {repeats} runs in turns, {first['prompt_tokens']} tokens of prompt, "
        f"{first['new_tokens']} new ones, {torch.get_num_threads()} threads"
    )
    append(subject.record("speed"), {"what": what, "records": records})
    print(what, flush=True)


def sizes(model: Any) -> dict[str, int]:
    parameters = list(model.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "bytes": sum(p.numel() * p.element_size() for p in parameters),
    }

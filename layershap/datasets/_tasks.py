"""Excerpts of public evaluation sets; ``data/tasks/README.md`` names their sources and licences."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

_TASKS = files("layershap.datasets") / "data" / "tasks"


def load_task(name: str) -> list[dict[str, Any]]:
    """Rows of a shipped task excerpt, for `layershap.tasks.multiple_choice`; too few for figures worth reporting.

    Parameters
    ----------
    name : {'arc_easy', 'copa', 'hellaswag', 'openbookqa', 'piqa', 'winogrande'}
        Name of the task.

    Returns
    -------
    list of dict
        Rows with ``query``, ``choices`` and ``gold``; WinoGrande's with ``context_options``, ``continuation`` and
        ``gold``.
    """
    shipped = sorted(f.name.removesuffix(".jsonl") for f in _TASKS.iterdir() if f.name.endswith(".jsonl"))
    if name not in shipped:
        raise ValueError(f"name must be one of the shipped tasks {shipped}, got {name!r}")
    return [json.loads(line) for line in (_TASKS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]

"""Layouts of a report's file, and what those of earlier versions lack.

Format 2: outcomes have the field ``compensation``. Format 3: they have ``generation``, and scores of which neither a
higher nor a lower value is better; a report has ``precision``. Format 4: a report has ``doubts`` and its fit
``model_name``.
"""

from __future__ import annotations

from typing import Any

from layershap.escaping import one_line

FORMAT = 4
"""Version of the JSON layout that is written; a reader refuses higher ones."""


def upgraded(content: dict[str, Any], found: int) -> dict[str, Any]:
    """The content of a report's file of format `found` in the layout of this version."""
    # Before format 3 rounding was not measured; before format 4 doubts were warnings only, and models had no names.
    content = {"precision": None, **content} if found < 3 else content
    content = {"doubts": [], **content} if found < 4 else content
    if found < 4 and isinstance(content.get("fit"), dict):
        content = {**content, "fit": {"model_name": "", **content["fit"]}}
    outcomes = content.get("outcomes")
    # Before format 2 no removal could be compensated, before format 3 no answers were compared.
    lacking = {"compensation": None} if found < 2 else {}
    lacking |= {"generation": None} if found < 3 else {}
    if lacking and isinstance(outcomes, list):
        outcomes = [{**lacking, **each} if isinstance(each, dict) else each for each in outcomes]
        return {**content, "outcomes": outcomes}
    return content


def writer_of(content: dict[str, Any]) -> str:
    """The version that wrote a file of a layout that this one doesn't know."""
    found: Any = content
    for key in ("environment", "versions", "layershap"):
        found = found.get(key) if isinstance(found, dict) else None
    return one_line(found) if isinstance(found, str) else "unknown"

"""Layouts of a report's file, and what those of earlier versions lack.

Format 2: outcomes have the field ``compensation``.
"""

from __future__ import annotations

from typing import Any

FORMAT = 2
"""Version of the JSON layout that is written; a reader refuses higher ones."""


def upgraded(content: dict[str, Any], found: int) -> dict[str, Any]:
    """The content of a report's file of format `found` in the layout of this version."""
    outcomes = content.get("outcomes")
    if found < 2 and isinstance(outcomes, list):
        # Before format 2 no removal could be compensated.
        outcomes = [{"compensation": None, **each} if isinstance(each, dict) else each for each in outcomes]
        return {**content, "outcomes": outcomes}
    return content

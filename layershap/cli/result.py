"""What a command answers: text for people, plain JSON values for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CommandResult:
    """The result of one command.

    Attributes
    ----------
    text : str
        Printed by default.
    data : dict
        Printed with ``--format json``.
    """

    text: str
    data: dict[str, Any]

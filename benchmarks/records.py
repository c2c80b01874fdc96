"""Finished rows, one JSON object a line: what is in the file is never done again."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch


def read(record: Path) -> list[dict[str, Any]]:
    """The finished rows; a torn last line is left out."""
    if not record.exists():
        return []
    found = []
    for line in record.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def append(record: Path, row: dict[str, Any]) -> None:
    """Add a row, with the date and the machine that it is of."""
    record.parent.mkdir(exist_ok=True)
    stamped = row | {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "machine": platform.node()}
    with record.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + json.dumps(stamped).encode() + b"\n")

"""Finished rows, one JSON object a line: what was done once is never done again.

    python -m benchmarks.records keep compensation_smollm2 generalisation_gpt2

A run adds its rows to a file of `cache`, which git ignores; `keep` packs them into `data/records`, which it doesn't. A
table is made of both, so that anyone can check the figures of a page, and go on with its run, from a fresh clone.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import CACHE, DATA, processor

KEPT = DATA / "records"
STAMP = ("date", "torch", "machine")
"""What `append` adds to a row."""


def read(record: Path) -> list[dict[str, Any]]:
    """The finished rows, after those that were kept if it is a file of `cache`; a torn last line is left out."""
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    kept = kept_of(record)
    if record.parent == CACHE and kept.exists():
        with lzma.open(kept, "rt", encoding="utf-8") as file:
            lines = [*file.read().splitlines(), *lines]
    found = []
    for line in dict.fromkeys(lines):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def append(record: Path, row: dict[str, Any]) -> None:
    """Add a row, with the date and the machine that it is of."""
    record.parent.mkdir(exist_ok=True)
    stamped = row | dict(zip(STAMP, (time.strftime("%Y-%m-%d"), torch.__version__, processor()), strict=True))
    with record.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + json.dumps(stamped).encode() + b"\n")


def kept_of(record: Path) -> Path:
    """Where the rows of a file of `cache` are kept."""
    return KEPT / f"{record.name}.xz"


def keep(name: str) -> Path:
    """Pack all rows of a record, those that were kept before among them."""
    record = CACHE / f"{name}.jsonl"
    rows = read(record)
    if not rows:
        raise SystemExit(f"{record} has no rows, and none of it were kept")
    KEPT.mkdir(exist_ok=True)
    with lzma.open(kept_of(record), "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return kept_of(record)


def made_on(rows: list[dict[str, Any]]) -> str:
    """One sentence: the days and machines that rows are of."""
    counts = Counter(tuple(row[key] for key in STAMP) for row in rows)
    parts = [f"{n} of {date} (torch {version}, {machine})" for (date, version, machine), n in counts.items()]
    return f"Made of rows that were run before: {', '.join(parts)}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["keep"])
    parser.add_argument("names", nargs="+", help="files of benchmarks/cache, without .jsonl")
    for name in parser.parse_args().names:
        print(keep(name))


if __name__ == "__main__":
    main()

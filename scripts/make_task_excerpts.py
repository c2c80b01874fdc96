"""
Make the task excerpts that the package ships (layershap/datasets/data/tasks) from full evaluation files, and the file
of all rows that the benchmarks read (benchmarks/data/tasks.jsonl.xz).

    python scripts/make_task_excerpts.py FOLDER

FOLDER holds arc_easy.jsonl, copa.jsonl, hellaswag_val1000.jsonl, openbook_qa.jsonl, piqa.jsonl and winogrande.jsonl:
rows with `query`, `choices`, `gold` or `context_options`, `continuation`, `gold`. The rows of the excerpts are taken at
even distances; queries get the prompts of lm-evaluation-harness.
"""

from __future__ import annotations

import json
import lzma
import sys
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "layershap" / "datasets" / "data" / "tasks"
EVERY = Path(__file__).parents[1] / "benchmarks" / "data" / "tasks.jsonl.xz"

TASKS = {
    "arc_easy": ("arc_easy.jsonl", 80, "\nAnswer:"),
    "copa": ("copa.jsonl", 100, ""),
    "hellaswag": ("hellaswag_val1000.jsonl", 60, ""),
    "openbookqa": ("openbook_qa.jsonl", 80, ""),
    "piqa": ("piqa.jsonl", 80, "\nAnswer:"),
    "winogrande": ("winogrande.jsonl", 80, None),
}
"""Excerpt: source file, number of rows, what ends the prompt (None: rows without a query)."""


def main(folder: Path) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    every = []
    for name, (file, count, ending) in TASKS.items():
        rows = [
            formatted(json.loads(line), ending) for line in (folder / file).read_text(encoding="utf-8").splitlines()
        ]
        taken = [json.dumps(rows[index * len(rows) // count], ensure_ascii=False) for index in range(count)]
        (OUT / f"{name}.jsonl").write_text("\n".join(taken) + "\n", encoding="utf-8")
        every += [json.dumps({"task": name, **row}, ensure_ascii=False) for row in rows]
    with lzma.open(EVERY, "wt", preset=9 | lzma.PRESET_EXTREME, encoding="utf-8") as packed:
        packed.write("\n".join(every) + "\n")


def formatted(row: dict[str, Any], ending: str | None) -> dict[str, Any]:
    fields = ("context_options", "continuation", "gold") if ending is None else ("query", "choices", "gold")
    kept = {field: row[field] for field in fields}
    if ending is not None:
        kept["query"] = kept["query"].rstrip("\n") + ending
    return kept


if __name__ == "__main__":
    main(Path(sys.argv[1]))

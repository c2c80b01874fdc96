"""
Make the task excerpts that the package ships (layershap/datasets/data/tasks) from full evaluation files.

    python scripts/make_task_excerpts.py FOLDER

FOLDER holds arc_easy.jsonl, copa.jsonl, hellaswag_val1000.jsonl, openbook_qa.jsonl, piqa.jsonl and winogrande.jsonl:
rows with `query`, `choices`, `gold` or `context_options`, `continuation`, `gold`. Rows are taken at even distances;
queries get the prompts of lm-evaluation-harness.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

OUT = Path(__file__).parents[1] / "layershap" / "datasets" / "data" / "tasks"

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
    for name, (file, count, ending) in TASKS.items():
        rows = [json.loads(line) for line in (folder / file).read_text(encoding="utf-8").splitlines()]
        taken = [rows[index * len(rows) // count] for index in range(count)]
        lines = []
        for row in taken:
            fields = ("context_options", "continuation", "gold") if ending is None else ("query", "choices", "gold")
            kept = {field: row[field] for field in fields}
            if ending is not None:
                kept["query"] = kept["query"].rstrip("\n") + ending
            lines.append(json.dumps(kept, ensure_ascii=False))
        (OUT / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

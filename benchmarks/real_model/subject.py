"""The model that the table is of, the text that methods are fitted on, and what their choices are tested on."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import CACHE, DATA, LENGTH, evenly, packed, processor, wikitext_articles
from benchmarks.records import append
from benchmarks.selection.generalisation import Problem, loaded, problem_with
from layershap import PERPLEXITY_PROTOCOLS, Calibration
from layershap.datasets import load_calibration_text, load_evaluation_text
from layershap.model.io import maximum_length, text_config, weights_precision
from layershap.tasks import Task, multiple_choice

TASKS = ("piqa", "arc_easy", "copa", "winogrande", "openbookqa", "hellaswag")
OWN_TEXT = "own"
"""The calibration text of the table's rows: every second article of WikiText-2's raw test text, those between them are
tested on (a novel for the bundled GPT-2).
"""
MIXTURE = "the mixture"
"""Half of the sequences of the calibration text of the rows, half of C4, of the half that isn't tested."""


@dataclass(frozen=True)
class Limits:
    """How much is tested: sequences of WikiText-2's test text (of C4 and the book half as many, of 2,048 tokens a
    sixteenth), questions of each task; None takes all, no questions no task.
    """

    sequences: int | None = 128
    questions: int | None = 100

    def of_text(self, share: int) -> int | None:
        return None if self.sequences is None else max(1, self.sequences // share)


@dataclass(frozen=True)
class Measure:
    """A test: its `key` names it in the records, with the amount tested."""

    key: str
    calibration: Calibration
    task: Task | None = None


@dataclass(frozen=True)
class Subject:
    """A model on its device, its tokenizer, and the draw of calibration sequences."""

    problem: Problem
    tokenizer: Any
    draw: int

    @classmethod
    def load(cls, name: str, draw: int, device: str, n_remove: list[int] | None = None, dtype: str = "auto") -> Subject:
        model_name, title, model, tokenizer = loaded(name, dtype)
        problem = problem_with(model_name, title, model.to(device), tokenizer)
        if n_remove:
            problem = replace(problem, depths=tuple(sorted(set(n_remove))))
        return cls(problem, tokenizer, draw)

    @property
    def model(self) -> Any:
        return self.problem.model

    @property
    def n_layers(self) -> int:
        return int(text_config(self.model.config).num_hidden_layers)

    @property
    def depths(self) -> tuple[int, ...]:
        """Numbers of removed layers: those given, or a tenth, two, three and four tenths of all (of the bundled model 1
        to 8).
        """
        return self.problem.depths

    def calibration(self, text: str, n_sequences: int) -> Calibration:
        """Sequences of the draw; of another kind of text, at even distances."""
        if text == OWN_TEXT:
            return self.problem.calibration(self.draw, n_sequences)
        if text == MIXTURE:
            kinds = [self.calibration(kind, n_sequences // 2) for kind in (OWN_TEXT, "c4")]
            ids_ST = torch.cat([kind.ids_ST for kind in kinds])
            return Calibration(ids_ST, ids_ST.clone(), {"kinds": [kind.provenance for kind in kinds]})
        return Calibration.from_texts(self._texts[text](), self.tokenizer, seq_len=LENGTH, n_sequences=n_sequences)

    @cached_property
    def _texts(self) -> dict[str, Callable[[], list[str]]]:
        return {
            "c4": lambda: [half_of_c4(second=True)],
            "tokenised": lambda: [packed("wikitext2-valid")],
            "book": load_calibration_text,
            "chat": lambda: [
                self.tokenizer.apply_chat_template(turns, tokenize=False) for turns in question_and_answer()
            ],
        }

    def record(self, kind: str) -> Path:
        """The file of finished rows of one kind: 'model' (what they are of), 'rows' (their names), 'fits', 'tests',
        'speed' or 'refusals'.
        """
        return record_of(self.problem.name, self.draw, kind)

    def add(self, kind: str, row: dict[str, Any]) -> None:
        """Add a row to a record, with the device, threads and precision that it was run with."""
        found = {"device": self.device, "threads": torch.get_num_threads(), "dtype": self.dtype}
        append(self.record(kind), row | found)

    @property
    def device(self) -> str:
        """The name of the GPU or of the processor that the model is on."""
        device = next(self.model.parameters()).device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()

    @property
    def dtype(self) -> str:
        return str(weights_precision(self.model)).removeprefix("torch.")

    def ledger(self, name: str) -> Path:
        return CACHE / f"real_model_{self.problem.name}_{self.draw}_{name}.jsonl"

    def measures(self, limits: Limits) -> list[Measure]:
        """What the choices are tested on, the most telling first."""
        positions = maximum_length(self.model) or 2048

        def tested() -> str:
            return "".join(wikitext_articles()[1])

        texts = [
            ("WikiText-2 test", "seq128", tested, 1),
            ("C4", "seq128", half_of_c4, 2),
            ("book", "seq128", lambda: "\n\n".join(load_evaluation_text()), 2),
            ("WikiText-2 test", "seq2048", tested, 16),
        ]
        found = [
            self._of_text(f"{name}, {protocol}", read(), PERPLEXITY_PROTOCOLS[protocol], limits.of_text(share))
            for name, protocol, read, share in texts
            if PERPLEXITY_PROTOCOLS[protocol].seq_len <= positions
        ]
        asked = TASKS if limits.questions != 0 else ()
        tasks = [self._of_task(name, limits.questions, positions) for name in asked]
        return [*found[:2], *tasks, *found[2:]]

    def _of_text(self, name: str, text: str, protocol: Any, count: int | None) -> Measure:
        whole = protocol.sequences(text, self.tokenizer)
        rows = torch.tensor(evenly(whole.n_sequences, count))
        some = whole.take(rows)
        return Measure(f"{name}, {some.n_sequences} sequences", some)

    def _of_task(self, name: str, count: int | None, positions: int) -> Measure:
        rows = questions(name)
        chosen = [rows[index] for index in evenly(len(rows), count)]
        chosen = [row for row in chosen if self._fits(row, positions)]
        task = multiple_choice(chosen, self.tokenizer, name=name, max_length=positions)
        return Measure(f"{name}, {len(chosen)} questions", task.calibration, task)

    def _fits(self, row: dict[str, Any], positions: int) -> bool:
        """Whether the model has positions for the question's longest choice: those of the bundled GPT-2 are few."""
        try:
            multiple_choice([row], self.tokenizer, max_length=positions)
        except ValueError:
            return False
        return True


def record_of(name: str, draw: int, kind: str) -> Path:
    return CACHE / f"real_model_{name}_{draw}_{kind}.jsonl"


def questions(name: str) -> list[dict[str, Any]]:
    """All rows of a task."""
    with lzma.open(DATA / "tasks.jsonl.xz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row for row in rows if row["task"] == name]


def half_of_c4(*, second: bool = False) -> str:
    """The first half of the sample is tested on; the second may be calibrated on."""
    text = packed("c4-sample")
    middle = text.index("\n", len(text) // 2)
    return text[middle:] if second else text[:middle]


def question_and_answer() -> list[list[dict[str, str]]]:
    """Turns of a chat: every third question of four tasks with its right answer. Some of them are tested as well, by
    their log-likelihood without chat format; texts are not.
    """
    rows = [row for name in ("arc_easy", "openbookqa", "piqa", "copa") for row in questions(name)[1::3]]
    return [
        [
            {"role": "user", "content": row["query"].removesuffix("\nAnswer:")},
            {"role": "assistant", "content": row["choices"][row["gold"]]},
        ]
        for row in rows
    ]

"""Rows of task files -> questions, checked.

A row is a mapping of one of these forms (those of lm-evaluation-harness and of MosaicML's evaluation files):

- ``query``, ``choices``, ``gold``: the choices follow the query;
- ``context_options``, ``continuation``, ``gold``: one continuation follows each of several contexts (WinoGrande);
- ``context``, ``continuation``; or ``text``, whose last word is the continuation (LAMBADA).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layershap.limits import is_int

Rows = str | os.PathLike[str] | Iterable[Mapping[str, Any]]
"""Path of a JSONL file, a list of dicts, or a `datasets.Dataset`."""


@dataclass(frozen=True)
class Question:
    """Pairs of context and continuation, of which one is right.

    Attributes
    ----------
    contexts, continuations : tuple of str
        One for each choice.
    gold : int
        Index of the right one.
    """

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    gold: int


def read_rows(rows: Rows) -> list[dict[str, Any]]:
    """Read `rows` from a JSONL file, a list of dicts or a `datasets.Dataset`, as a list of dicts.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, a line that is no JSON object, or no rows.
    """
    if isinstance(rows, str | os.PathLike):
        path = Path(rows)
        if not path.is_file():
            raise FileNotFoundError(f"no task file {str(path)!r}; rows are read from a JSONL file, one object a line")
        found = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number} is no JSON: {error}") from error
            found.append(row)
    else:
        found = list(rows)
    if not found:
        raise ValueError("a task needs at least one row, got none")
    for index, row in enumerate(found):
        if not isinstance(row, Mapping):
            raise ValueError(f"a row must be a mapping of field names, row {index} is a {type(row).__name__}")
    return [dict(row) for row in found]


def choice_question(row: Mapping[str, Any], index: int, delimiter: str) -> Question:
    """The question of a row with choices; `index` is for errors."""
    if "choices" in row and "query" in row:
        options, kind = row["choices"], "choices"
    elif "context_options" in row and "continuation" in row:
        options, kind = row["context_options"], "context_options"
    else:
        raise ValueError(
            f"row {index} must have 'query', 'choices' and 'gold', or 'context_options', 'continuation' and 'gold'; "
            f"it has {sorted(row)}"
        )
    if isinstance(options, str) or len(options) < 2:
        raise ValueError(f"row {index} must have at least two {kind} to choose from, got {options!r}")
    empty = [number for number, option in enumerate(options) if not str(option).strip()]
    if empty:
        raise ValueError(f"{kind} must not be empty, those at {empty} of row {index} are")
    gold = _gold(row, index, len(options))
    if kind == "choices":
        contexts = (str(row["query"]),) * len(options)
        continuations = tuple(delimiter + str(option) for option in options)
    else:
        if not str(row["continuation"]).strip():
            raise ValueError(f"the continuation of row {index} is empty")
        contexts = tuple(str(option) for option in options)
        continuations = (delimiter + str(row["continuation"]),) * len(options)
    return Question(contexts, continuations, gold)


def last_word_question(row: Mapping[str, Any], index: int) -> Question:
    """The single context and continuation of a row; `index` is for errors."""
    if "context" in row and "continuation" in row:
        context, word = str(row["context"]).rstrip(), str(row["continuation"]).strip()
    elif "text" in row:
        context, _, word = str(row["text"]).rstrip().rpartition(" ")
    else:
        raise ValueError(f"row {index} must have 'text', or 'context' and 'continuation'; it has {sorted(row)}")
    if not context or not word:
        raise ValueError(f"row {index} must have a context and a last word, got {context!r} and {word!r}")
    return Question((context,), (" " + word,), 0)


def _gold(row: Mapping[str, Any], index: int, n_choices: int) -> int:
    gold = row.get("gold")
    if gold is None or gold == "":
        raise ValueError(
            f"row {index} has no 'gold', the index of its right choice; rows of a test split without answers can't be "
            "scored"
        )
    if not is_int(gold) or not 0 <= gold < n_choices:
        raise ValueError(f"the gold of row {index} must be an index in [0, {n_choices}), got {gold!r}")
    return int(gold)

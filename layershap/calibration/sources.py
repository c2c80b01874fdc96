"""Calibration data in the forms that people have it -> texts or batches, of which there is an end.

Texts are a string, an iterable of strings (a list, a pandas Series, a generator, a column), or rows with a text column
(a `datasets.Dataset`, streamed or not, or an iterable of mappings).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor

TOKEN_FIELDS = ("input_ids", "attention_mask", "labels")
"""What is read of a mapping of tokens."""

CHATS = ("messages", "conversations", "conversation", "chat")

_LEAST_READ, _PER_TOKEN = 2**20, 16
"""Characters read of texts without a length: so many, or so many for each token wanted where that is more."""

MOST_CHARACTERS = 2**24
"""Characters of texts without a length of which all are wanted: more is taken to be without end."""

_NO_TOKENIZER = (
    "calibration texts need a tokenizer: fit(model, texts, tokenizer=tokenizer), or "
    "fit(model, Calibration.from_texts(texts, tokenizer, seq_len=..., n_sequences=...))"
)

MOST_TOKENS = 2**22
"""Tokens of batches without a length: more is taken to be without end."""


@dataclass(frozen=True)
class Source:
    """What data holds.

    Attributes
    ----------
    items : iterable
        Strings or batches, to be read once. It has a length only where that is known.
    of_text : bool
        Which of the two.
    provenance : dict
        Entries for that of the `Calibration`.
    """

    items: Iterable[Any]
    of_text: bool
    provenance: dict[str, Any]


def is_sized(data: Any) -> bool:
    """Whether data has a length: a generator or a streaming dataset may have no end."""
    try:
        len(data)
    except TypeError:  # a DataLoader has the method, but not always a length
        return False
    return True


def source_of(data: Any, column: str | None = None) -> Source:
    """Texts or batches, and which of them.

    Parameters
    ----------
    data : str, iterable of str, datasets.Dataset, mapping or iterable of batches
        Not None, and no token tensor.
    column : str, optional
        Of rows: the one that holds the text. By default the only one with strings, or the one named 'text'; rows with
        'input_ids' are batches.

    Raises
    ------
    TypeError
        None of these.
    ValueError
        A dataset of several splits, a table, a path, or no text column or several.
    """
    check_is_no_container(data)
    if isinstance(data, str):
        return Source([data], True, {})
    if isinstance(data, Mapping) or hasattr(data, "input_ids"):
        return Source([data], False, {})
    if isinstance(data, np.ndarray) and data.dtype.kind in "OUS":
        data = data.tolist()
    if not isinstance(data, Iterable) or isinstance(data, Tensor | np.ndarray):
        # torch's own datasets can be indexed only.
        hint = "" if isinstance(data, Iterable) or not hasattr(data, "__getitem__") else "; wrap it in a DataLoader"
        raise TypeError(
            f"calibration data must be texts, a datasets.Dataset, a DataLoader, batches or a token tensor [S, T], "
            f"got {type(data).__name__}{hint}"
        )
    features = getattr(data, "features", None)
    if isinstance(features, Mapping) and hasattr(data, "column_names"):
        # What a column holds is known without reading a row.
        kinds = {str(name): getattr(feature, "dtype", None) for name, feature in features.items()}
        textual = [name for name, kind in kinds.items() if kind in ("string", "large_string")]
        return _from_rows(data, list(kinds), textual, column, is_sized(data))
    sized = is_sized(data)
    if sized and hasattr(data, "__getitem__"):
        first, rows = next(iter(data), None), data
    else:
        # One pass: a second would start a loader's workers again, or find a generator empty.
        passed = iter(data)
        first = next(passed, None)
        rows = chain([first], passed) if first is not None else ()
        rows = list(rows) if sized else rows
    if isinstance(first, str):
        check_is_no_path(first)
        return Source(rows, True, {})
    if isinstance(first, Mapping):
        textual = [name for name, value in first.items() if isinstance(value, str)]
        return _from_rows(rows, list(first), textual, column, sized)
    return Source(rows, False, {})


def _from_rows(rows: Iterable[Any], names: list[str], textual: list[str], column: str | None, sized: bool) -> Source:
    # Other columns may be images, which take long to decode.
    select = getattr(rows, "select_columns", None)
    if column is None and "input_ids" in names:
        fields = [name for name in names if name in TOKEN_FIELDS]
        return Source(rows if select is None else select(fields), False, {})
    if column is None:
        column = "text" if "text" in textual else textual[0] if len(textual) == 1 else None
        if column is None:
            raise ValueError(
                f"which column holds the text? Columns: {names}, of which strings: {textual}. Name it: "
                f"Calibration.from_dataset(dataset, tokenizer, column=...); tokens are 'input_ids'{_chat_hint(names)}"
            )
    elif column not in names:
        raise ValueError(f"column must be one of {names}, got {column!r}")
    elif column in CHATS and column not in textual:
        raise ValueError(f"column {column!r} holds no strings{_chat_hint(names)}")
    if select is not None:
        rows = select([column])
    texts = (row[column] for row in rows if not _is_blank(row[column]))
    return Source(list(texts) if sized else texts, True, {"source": "dataset", "column": column})


def _is_blank(text: Any) -> bool:
    return text is None or (isinstance(text, str) and not text.strip())


def _chat_hint(names: list[str]) -> str:
    chats = [name for name in names if name in CHATS]
    if not chats:
        return ""
    return (
        f". {chats[0]!r} holds chats: layershap.calibration.chat_answers(data, tokenizer) scores their answers; or "
        f"render them first, to score all: dataset.map(lambda row: {{'text': "
        f"tokenizer.apply_chat_template(row[{chats[0]!r}], tokenize=False)}})"
    )


def check_is_no_container(data: Any) -> None:
    """Raise for what iterates over names instead of texts: splits, tables, paths."""
    if isinstance(data, os.PathLike):
        raise TypeError(f"{os.fspath(data)!r} is a path, not text: give Path(...).read_text(encoding='utf-8')")
    if isinstance(data, bytes | bytearray):
        raise TypeError("texts must be strings, got bytes: give data.decode('utf-8')")
    if hasattr(data, "iloc") and hasattr(data, "columns"):
        raise ValueError(f"which column holds the text? Give frame[name]; columns: {list(map(str, data.columns))}")
    if isinstance(data, Mapping) and data and all(hasattr(part, "column_names") for part in data.values()):
        raise ValueError(f"a dataset of several splits, {list(data)}: choose one, data[{next(iter(data))!r}]")
    if isinstance(data, str):
        check_is_no_path(data)


def check_is_no_path(text: str) -> None:
    """Raise for a string that names a file: its name would be taken for the text."""
    if len(text) < 1024 and not any(c in text for c in "\n\0") and os.path.isfile(text):
        raise ValueError(
            f"{text!r} is the path of a file, not text: give Path({text!r}).read_text(encoding='utf-8') (or a list of "
            "what it holds)"
        )


def read_texts(texts: str | Iterable[str], n_tokens: int | None) -> tuple[list[str], dict[str, Any]]:
    """Texts as a list, and a note for the provenance where reading stopped before their end.

    Texts with a length are read whole. Of others (generators, streams), which may have no end, the beginning is.

    Parameters
    ----------
    texts : str or iterable of str
        A string is one text.
    n_tokens : int or None
        Tokens wanted; None wants all texts.

    Raises
    ------
    TypeError
        Not strings.
    ValueError
        All of what seems to have no end.
    """
    if isinstance(texts, Mapping):
        raise TypeError(
            f"texts must be strings, got a mapping with the keys {sorted(map(str, texts))[:5]}; only `evaluate` and "
            "`measure` take names for texts"
        )
    source = source_of(texts)
    if not source.of_text:
        first = next(iter(source.items), None)
        if first is not None:
            raise TypeError(f"texts must be strings, got {type(first).__name__} at position 0")
        return [], {}
    limit: int | None = None
    if not is_sized(source.items):
        limit = MOST_CHARACTERS if n_tokens is None else max(_LEAST_READ, _PER_TOKEN * n_tokens)
    found: list[str] = []
    n_characters = 0
    for text in source.items:
        if not isinstance(text, str):
            raise TypeError(f"texts must be strings, got {type(text).__name__} at position {len(found)}")
        found.append(text)
        n_characters += len(text)
        if limit is not None and n_characters >= limit:
            if n_tokens is None:
                raise ValueError(
                    f"all of a stream of texts were asked for, and it has no end after {n_characters:,} characters; "
                    "give n_sequences, or texts with a length (list(texts))"
                )
            return found, {"stopped_after_characters": n_characters}
    return found, {}


def text_tokenizer(tokenizer: Any, missing: str = _NO_TOKENIZER) -> Any:
    """The tokenizer of text, also out of the processor of a model that sees or hears; `missing` is said of None.

    Raises
    ------
    ValueError
        None.
    TypeError
        Something that can't be called on text.
    """
    if tokenizer is None:
        raise ValueError(missing)
    inner = getattr(tokenizer, "tokenizer", None)
    # A processor reads its first argument as images; it has no BOS of its own, which every tokenizer has or lacks.
    found = inner if hasattr(inner, "bos_token_id") and not hasattr(tokenizer, "bos_token_id") else tokenizer
    if not callable(found):
        hint = "; load it first: AutoTokenizer.from_pretrained(...)" if isinstance(found, str | os.PathLike) else ""
        raise TypeError(f"tokenizer must be a transformers tokenizer, got {type(found).__name__}{hint}")
    return found


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text, without special tokens.

    Raises
    ------
    TypeError
        Ids that aren't integers.
    """
    ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    if ids and np.asarray(ids).dtype.kind not in "iu":
        raise TypeError(f"token ids must be integers, {type(tokenizer).__name__} gave {type(ids[0]).__name__}")
    return ids

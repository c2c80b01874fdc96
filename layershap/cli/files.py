"""Files of texts and prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

_PROMPTS = ("prompt", "text", "messages")


def read_texts(paths: Sequence[Path]) -> list[str]:
    """Texts of files: .txt is one text, .jsonl a text (or an object with "text") per line, .json a list of texts.

    Raises
    ------
    ValueError
        A file is not UTF-8 or not JSON, a row holds no text, or all are blank; the message names file and row.
    OSError
        A file can't be read.
    """
    texts: list[str] = []
    for file in paths:
        found = [_text(row, where) for where, row in _rows(file)]
        if not any(text.strip() for text in found):
            raise ValueError(f"{file} must hold text, it is blank")
        texts += found
    return texts


def read_chats(paths: Sequence[Path]) -> list[object]:
    """Chats of files: .jsonl is a chat a line, .json a list of them; a chat is a list of messages, or under 'messages'.

    Raises
    ------
    ValueError, TypeError
        A file is not UTF-8 or not JSON, or a row holds no chat; the message names file and row.
    OSError
        A file can't be read.
    """
    from layershap.calibration.chat_source import check_chat
    from layershap.calibration.sources import CHATS

    chats: list[object] = []
    for file in paths:
        if file.suffix not in (".json", ".jsonl"):
            raise ValueError(f"{file} must be .jsonl or .json with a chat a row; text is no chat")
        rows = _rows(file)
        if not rows:
            raise ValueError(f"{file} must hold chats, it is blank")
        for where, row in rows:
            chat = row
            if isinstance(row, dict):
                name = next((name for name in CHATS if name in row), None)
                if name is None:
                    raise ValueError(
                        f"{where} must be a list of messages, or an object with {CHATS[0]!r}, it is {_kind(row)}"
                    )
                chat = row[name]
            chats.append(check_chat(chat, where))
    return chats


def read_prompts(file: Path) -> list[object]:
    """Prompts of a file: .txt is a prompt a line, .jsonl a text (or an object) a line, .json a list of them.

    Raises
    ------
    ValueError
        The file is not UTF-8 or not JSON, holds no prompts, or a row is none; the message names file and row.
    OSError
        It can't be read.
    """
    rows = _rows(file)
    if file.suffix not in (".json", ".jsonl"):
        lines = enumerate(str(rows[0][1]).splitlines(), start=1)
        rows = [(f"{file}, line {number}", line) for number, line in lines if line.strip()]
    for where, row in rows:
        named = isinstance(row, dict) and any(isinstance(row.get(name), str | list) for name in _PROMPTS)
        if not isinstance(row, str) and not named:
            raise ValueError(f"{where} must be a text, or an object with 'prompt' or 'messages', it is {_kind(row)}")
    if not rows:
        raise ValueError(f"{file} must hold prompts, it is blank")
    return [row for _, row in rows]


def _rows(file: Path) -> list[tuple[str, object]]:
    """The rows of a file, each with where it stands."""
    try:
        # A byte order mark, which some editors write, is no part of the text.
        content = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} must be text in UTF-8: {error}") from error
    if file.suffix == ".jsonl":
        lines = enumerate(content.split("\n"), start=1)
        return [(f"{file}, line {n}", _json(line, f"{file}, line {n}")) for n, line in lines if line.strip()]
    if file.suffix != ".json":
        return [(str(file), content)]
    rows = _json(content, str(file))
    if not isinstance(rows, list):
        raise ValueError(f"{file} must hold a list with a text, prompt or chat an item, it holds {_kind(rows)}")
    return [(f"{file}, row {n}", row) for n, row in enumerate(rows, start=1)]


def _json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} must be JSON: {error}") from error


def _text(row: object, where: str) -> str:
    text = row.get("text") if isinstance(row, dict) else row
    if not isinstance(text, str):
        raise ValueError(f"{where} must be a string, or an object with a string under 'text', it is {_kind(row)}")
    return text


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return f"an object with {sorted(value)[:5]}"
    return "a list" if isinstance(value, list) else f"{value!r:.40}"

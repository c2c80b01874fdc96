"""Chats in the forms that people have them: lists of messages, or rows with a column of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from layershap.calibration.sources import CHATS, check_is_no_container, is_sized

Chat = Sequence[Mapping[str, Any]]
"""Messages with 'role' and 'content', as `apply_chat_template` takes them."""

MOST_CHATS = 4096
"""Chats read of a source without a length, which may have no end."""


def check_chat(chat: Any, where: str) -> Chat:
    """A chat, after a look whether it is one.

    Raises
    ------
    TypeError, ValueError
        It isn't; the message calls it by `where`.
    """
    if isinstance(chat, str | Mapping) or not isinstance(chat, Sequence):
        raise TypeError(f"{where} must be a list of messages with 'role' and 'content', got {type(chat).__name__}")
    if not chat:
        raise ValueError(f"{where} must have messages, it is empty")
    for number, message in enumerate(chat):
        if isinstance(message, Mapping) and {"from", "value"} <= set(message):
            raise ValueError(
                f"message {number} of {where} has 'from' and 'value'; rename them: {{'human': 'user', 'gpt': "
                "'assistant'}[m['from']] is the 'role', m['value'] the 'content'"
            )
        if not isinstance(message, Mapping) or "role" not in message:
            got = sorted(map(str, message)) if isinstance(message, Mapping) else type(message).__name__
            raise ValueError(f"message {number} of {where} must be a mapping with 'role' and 'content', got {got}")
    return chat


class ChatSource:
    """Chats by their place, of a list or of the rows of a dataset, which decodes a row when it is asked for."""

    def __init__(self, items: Any, column: str | None) -> None:
        self.items, self.column = items, column

    def __len__(self) -> int:
        return len(self.items)

    def chat(self, index: int) -> Chat:
        """The messages of one chat, checked."""
        item = self.items[index]
        if self.column is None:
            return check_chat(item, f"chat {index}")
        if not isinstance(item, Mapping) or self.column not in item:
            raise ValueError(f"row {index} has no {self.column!r}, which holds the messages of the rows before it")
        return check_chat(item[self.column], f"{self.column!r} of row {index}")


def read_chats(data: Any, column: str | None) -> tuple[ChatSource, dict[str, Any]]:
    """Chats, and a note for the provenance where reading stopped before their end."""
    check_is_no_container(data)
    if isinstance(data, str | Mapping) or not isinstance(data, Iterable):
        raise TypeError(f"chats must be lists of messages, or rows with a column of them, got {type(data).__name__}")
    stopped: dict[str, Any] = {}
    items: Any = data
    if not is_sized(data):
        items = list(islice(data, MOST_CHATS + 1))
        if len(items) > MOST_CHATS:
            items, stopped = items[:MOST_CHATS], {"stopped_after_chats": MOST_CHATS}
    elif not hasattr(data, "__getitem__"):
        items = list(data)
    if len(items) == 0:
        raise ValueError("there must be at least one chat, got none")
    first = items[0]
    if not isinstance(first, Mapping):
        if column is not None:
            raise ValueError(f"column={column!r} is of rows, the first item is a {type(first).__name__}")
        return ChatSource(items, None), stopped
    if "role" in first:
        raise TypeError("chats must be lists of messages, got one chat alone; give [chat]")
    names = list(first)
    if column is None:
        column = next((name for name in CHATS if name in names), None)
    if column is None or column not in names:
        raise ValueError(
            f"which column holds the messages? Columns: {names}, got column={column!r}; by default one of {list(CHATS)}"
        )
    return ChatSource(items, column), stopped | {"column": column}

"""Models and tokenizers are named by a path or by their name on the Hub: which of the two, and what of it to tell."""

from __future__ import annotations

import os
import re
from typing import Any

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def is_name(source: str) -> bool:
    """Whether a source could be a name on the Hub, ``name`` or ``owner/name``, by the looks of it."""
    return _HUB_NAME.fullmatch(source) is not None


def is_path(source: str) -> bool:
    """Whether a source is a path: no name on the Hub looks like it, or the folder that it begins with is here.

    Examples
    --------
    >>> [is_path(source) for source in ("gpt2", "openai-community/gpt2", "./gpt2", "/models/gpt2", "a/b/c", "gpt2/")]
    [False, False, True, True, True, True]
    """
    if not is_name(source) or os.path.exists(source):
        return True
    folder, slash, _ = source.partition("/")
    return bool(slash) and os.path.isdir(folder)


def public_name(source: str) -> str:
    """What others may read of where something came from: of a path, the last part alone.

    Examples
    --------
    >>> public_name("/home/jane/models/small"), public_name("openai-community/gpt2")
    ('small', 'openai-community/gpt2')
    """
    local = os.path.isabs(source) or source.startswith((".", "~")) or os.path.exists(source)
    return os.path.basename(os.path.abspath(source)) if local else source


def model_name(model: Any) -> str:
    """The last part of a model's name on the Hub, or of its folder; empty if it has none.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> model_name(SimpleNamespace(name_or_path="openai-community/gpt2")), model_name(object())
    ('gpt2', '')
    """
    known = getattr(model, "name_or_path", None) or getattr(getattr(model, "config", None), "_name_or_path", None)
    return os.path.basename(public_name(known).rstrip("/")) if isinstance(known, str) and known else ""


def tokenizer_name(tokenizer: Any) -> str:
    """What a provenance calls a tokenizer: its name on the Hub, of a folder the last part, or its class."""
    name = getattr(tokenizer, "name_or_path", None)
    return public_name(str(name)) if name else type(tokenizer).__name__

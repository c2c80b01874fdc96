"""Keeping a quantisation config in step: its lists of modules (kept in 16 bit, of other bits) name layers by index."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from layershap.model.io import base_model
from layershap.surgery.indices import rename


def renumber_quantization(model: nn.Module, path: str, positions: Mapping[int, int]) -> tuple[str, ...]:
    """Rewrite the module names in a pruned model's quantisation config, however deep they lie in it.

    Parameters
    ----------
    model : nn.Module
        The pruned model.
    path : str
        Dotted path of its layers.
    positions : mapping of int to int
        Old place -> new place of each layer that stays.

    Returns
    -------
    tuple of str
        The patterns that name other layers now and can't be rewritten (regular expressions with indices).
    """
    base = base_model(model)
    inner = path.removeprefix("base_model.model.") if base is not model else path
    former = {new: old for old, new in positions.items()}
    names = [name for name, _ in base.named_modules() if name.startswith(inner + ".")]
    moved = [(rename(name, inner, former) or name, name) for name in names]
    stale: set[str] = set()

    def change(text: str) -> str | None:
        new = _renamed(text, inner, positions)
        if new == text and any(_matches(text, old) != _matches(text, now) for old, now in moved):
            stale.add(text)
        return new

    quantizer: Any = getattr(base, "hf_quantizer", None)
    holders = [
        getattr(getattr(base, "config", None), "quantization_config", None),
        getattr(quantizer, "quantization_config", None),
    ]
    for holder in {id(holder): holder for holder in holders if holder is not None}.values():
        _rewrite(holder, change)
    kept = getattr(quantizer, "modules_to_not_convert", None)
    if isinstance(kept, list):
        quantizer.modules_to_not_convert = _rewrite(kept, change)
    return tuple(sorted(stale))


def _renamed(text: str, path: str, positions: Mapping[int, int]) -> str | None:
    """A full name, or the end of one from the list of layers on, with its new index; None if its layer was removed."""
    parts = path.split(".")
    for start in range(len(parts)):
        tail = ".".join(parts[start:])
        if start == 0 or text.startswith(tail + "."):
            new = rename(text, tail, positions)
            if new != text:
                return new
    return text


def _matches(pattern: str, name: str) -> bool:
    """Whether a pattern of any of transformers' quantisers may name the module."""
    expression = re.sub(r"^(re:|[+-]:)", "", pattern)
    if name.endswith(expression):
        return True
    try:
        return re.match(rf"(?:{expression})(?:(?<=\.)|(?=\.|$))", name) is not None
    except re.error:
        return False


def _rewrite(value: Any, change: Callable[[str], str | None]) -> Any:
    """`value` with every string in it changed; strings that change to None are left out of their lists and tables."""
    if isinstance(value, dict):
        kept = {key: change(key) if isinstance(key, str) else key for key in value}
        for key, new in kept.items():
            content = _rewrite(value.pop(key), change)
            if new is not None:
                value[new] = content
        return value
    if isinstance(value, list | tuple | set):
        entries = [change(entry) if isinstance(entry, str) else _rewrite(entry, change) for entry in value]
        return type(value)(entry for entry, old in zip(entries, value, strict=True) if entry is not None or old is None)
    if dataclasses.is_dataclass(value) or hasattr(type(value), "model_fields") or hasattr(value, "quant_method"):
        for name, entry in list(vars(value).items()):
            if isinstance(entry, dict | list | tuple | set) or dataclasses.is_dataclass(entry):
                object.__setattr__(value, name, _rewrite(entry, change))
    return value

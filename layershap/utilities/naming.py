"""What a score is called."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass

_Plain = str | int | float | None


def score_name(utility: object) -> str:
    """The utility in a few words, for tables and axes.

    A function goes by its name. Of a dataclass those fields are named that are plain and not at their default: its
    arrays, say which sequences are the choices of which question, are no name. Other classes may define ``__str__``.
    """
    name = getattr(utility, "__qualname__", None)
    if name is not None:
        return str(name)
    if type(utility).__str__ is not object.__str__:
        return str(utility)
    if not is_dataclass(utility):
        return type(utility).__name__
    told = []
    for field in fields(utility):
        value = getattr(utility, field.name)
        default = None if field.default is MISSING else field.default
        if isinstance(value, _Plain) and value != default:
            told.append(f"{field.name}={value!r}")
    return type(utility).__name__ + (f"({', '.join(told)})" if told else "")

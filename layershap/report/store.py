"""Records <-> JSON: any tree of frozen dataclasses whose leaves are numbers, strings, tuples and string-keyed dicts.

JSON has no NaN and no infinities; they are written as the strings "NaN", "Infinity" and "-Infinity".
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from layershap.exceptions import ReportFormatError

Record = TypeVar("Record")

_LIMIT = 2**63
"""No count comes near it; Python's ints have no bound of their own, floats and formatted tables do."""


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a report's file at `path` holds, whatever it is.

    Raises
    ------
    ReportFormatError
        A folder, or no JSON.
    """
    if Path(path).is_dir():
        raise ReportFormatError(f"{path} must be a report's file, it is a folder: give the .json file in it")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ReportFormatError(f"{path} must be a report in JSON: it is nested too deeply to be one") from error
    except ValueError as error:
        raise ReportFormatError(f"{path} must be a report in JSON, written by PruningReport.save: {error}") from error


def to_plain(value: Any) -> Any:
    """What `json.dumps` takes, for a record or any of its parts."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def from_plain(kind: type[Record], value: Any, where: str = "report") -> Record:
    """Build a record of type `kind` from what `to_plain` gave.

    Raises
    ------
    ReportFormatError
        A field is missing, unknown or of another type; the message names its path.
    """
    return _read(kind, value, where)


def _read(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return _read_record(kind, value, where)
    if origin is UnionType:
        inner = [option for option in get_args(kind) if option is not NoneType]
        return None if value is None else _read(inner[0], value, where)
    if origin is tuple:
        _expect(isinstance(value, list), "a list", value, where)
        return tuple(_read(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), "an object", value, where)
        return {key: _read(get_args(kind)[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is Any:
        _expect(_is_shallow(value, 8), "JSON of few levels", "deeper nesting", where)
        return value
    if kind is float:
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        _expect(numeric or value in ("NaN", "Infinity", "-Infinity"), "a number", value, where)
        if isinstance(value, int):
            _expect(abs(value) < _LIMIT, "a number of 64 bits", value, where)
        return float(value)
    _expect(isinstance(value, kind) and not (kind is int and isinstance(value, bool)), kind.__name__, value, where)
    if kind is int:
        _expect(0 <= value < _LIMIT, "a count: an int of 63 bits, not negative", value, where)
    return value


def _read_record(kind: type, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), "an object", value, where)
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    missing, unknown = sorted(set(names) - set(value)), sorted(set(value) - set(names))
    if missing or unknown:
        raise ReportFormatError(f"{where} must have the fields {names}: missing {missing}, unknown {unknown}")
    return kind(**{name: _read(hints[name], value[name], f"{where}.{name}") for name in names})


def _is_shallow(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in inner)


def _expect(condition: bool, wanted: str, value: Any, where: str) -> None:
    if not condition:
        raise ReportFormatError(f"{where} must be {wanted}, got {value!r:.80}")

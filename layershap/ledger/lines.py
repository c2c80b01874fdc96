"""The lines of a ledger: what one holds, and how it tells that it was altered.

Each line is a JSON object that ends with ``"check"``: a digest of the line and of all lines before it. So a line that
was edited, moved, lost, repeated, or brought over from another ledger is found, by its number.

Shapes: L players, S calibration sequences.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from layershap.masks import mask_key
from layershap.protocols import FloatArray, MaskArray

FORMAT = 3
"""Version 1 had no checks, and its fingerprint lacked much of what a score depends on; in version 2 scores depended on
the masks evaluated beside them, so that a sweep counted as a whole or not at all.
"""

HEADER_BYTES = 2**24
"""No header is longer."""

MaskRow = dict[str, FloatArray]
"""Statistic name -> sums [S] of one mask."""

_CHECK = ', "check": "'
_LONGEST_FLOAT = 32


class LineError(Exception):
    """A line can't be read; the message says why."""


@dataclass(frozen=True)
class RowShape:
    """What each row of one ledger holds.

    Attributes
    ----------
    n_players : int
        L: bits of a mask.
    counts : tuple of int
        Scored tokens of each sequence [S]: the numbers of each statistic are sums over them. A single 1 for a utility
        that is a plain callable.
    statistics : tuple of str
        Their names.
    """

    n_players: int
    counts: tuple[int, ...]
    statistics: tuple[str, ...]

    @property
    def n_sequences(self) -> int:
        """S: numbers of each statistic."""
        return len(self.counts)

    @property
    def most_bytes(self) -> int:
        """No row is longer."""
        return 256 + self.n_players + sum(len(n) + 16 + _LONGEST_FLOAT * self.n_sequences for n in self.statistics)

    def record(self, mask_L: MaskArray, row: MaskRow) -> dict[str, Any]:
        """A row as plain values."""
        values = {name: row[name].tolist() for name in self.statistics}
        return {"mask": "".join("01"[int(bit)] for bit in mask_L), **values}

    def parse(self, record: dict[str, Any]) -> tuple[bytes, MaskRow]:
        """The key of the mask, and its sums.

        Raises
        ------
        LineError
            The record isn't of this shape.
        """
        if set(record) != {"mask", *self.statistics}:
            raise LineError(f"a row holds mask and {list(self.statistics)}, this one {sorted(record)}")
        mask = record["mask"]
        if not isinstance(mask, str) or len(mask) != self.n_players or set(mask) - {"0", "1"}:
            raise LineError(f"a mask is {self.n_players} digits 0 or 1, this one is {mask!r:.80}")
        row = {}
        for name in self.statistics:
            try:
                row[name] = np.asarray(record[name], dtype=np.float64)
            except (TypeError, ValueError, OverflowError) as error:
                raise LineError(f"{name!r} holds what is no number ({error})") from error
            if row[name].shape != (self.n_sequences,):
                raise LineError(f"{name!r} has shape {row[name].shape} for {self.n_sequences} sequences")
        return mask_key(np.array(list(mask)) == "1"), row


def encode(record: dict[str, Any], previous: str) -> tuple[bytes, str]:
    """A line, and its check; `previous` is the check of the line before it ('' for the first)."""
    body = json.dumps(record).removesuffix("}")
    check = _digest(previous, body)
    return f'{body}{_CHECK}{check}"}}\n'.encode(), check


def decode(line: bytes, previous: str) -> tuple[dict[str, Any], str]:
    """The record of a line that ends with a newline, and its check.

    Raises
    ------
    LineError
        It is no such line, or was altered, or doesn't follow the line before it.
    """
    try:
        body, separator, end = line.decode().rpartition(_CHECK)
        if not separator:
            raise LineError("it is blank" if not line.strip() else "it is no line of a ledger, or was cut")
        check = _digest(previous, body)
        if end != f'{check}"}}\n':
            raise LineError("its check fails: it was altered, or lines before it are missing, moved or repeated")
        record = json.loads(body + "}")
    except (ValueError, RecursionError) as error:
        raise LineError(f"it is no JSON ({error})") from error
    if not isinstance(record, dict):
        raise LineError(f"it holds a {type(record).__name__} in place of an object")
    return record, check


def _digest(previous: str, body: str) -> str:
    return hashlib.sha256(f"{previous}\n{body}".encode()).hexdigest()[:16]

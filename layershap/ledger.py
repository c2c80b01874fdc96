"""The ledger: an append-only file of evaluated masks, so that work already paid for is never lost.

One JSON object per line. The first is the header: a fingerprint of everything that a score depends on. Each other line
is one evaluated mask: its bits and its per-sequence statistic sums (floats written so that they read back bit for
bit). A sweep's rows are written with a single call and forced to disk; a torn last line is dropped on reading.

Shapes: S calibration sequences.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from layershap.exceptions import LedgerMismatchError
from layershap.protocols import FloatArray, MaskArray

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: no advisory locks; one process per file is then the user's care.
    fcntl = None

_CALIBRATION_CAUSES = (
    " The calibration differs with other data, and with another budget or search_sequences of LayerPruner (with a "
    "budget, also max_remove, protect or selector), which decide how many of the sequences the search looks at: each "
    "needs a ledger file of its own."
)

MaskRow = dict[str, FloatArray]
"""Statistic name -> sums [S] of one mask."""


class Ledger:
    """Evaluated masks on disk. Use as a context manager.

    Parameters
    ----------
    path : str or Path
        File to append to; made if missing.
    fingerprint : mapping
        Plain JSON values. Resuming a file with another fingerprint is an error.

    Attributes
    ----------
    rows : dict of bytes to MaskRow
        Evaluated masks by `mask_key`.

    Raises
    ------
    LedgerMismatchError
        The file belongs to another model, calibration set, statistic or version; the message names the fields.
    """

    def __init__(self, path: str | os.PathLike[str], fingerprint: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.fingerprint = json.loads(json.dumps(dict(fingerprint)))
        self.rows: dict[bytes, MaskRow] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab+")  # noqa: SIM115 - closed by close(); kept open to append
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def append(self, rows: Iterable[tuple[MaskArray, MaskRow]]) -> None:
        """Write evaluated masks in one call and force them to disk."""
        lines = []
        for mask_L, row in rows:
            record: dict[str, Any] = {"mask": "".join("01"[int(bit)] for bit in mask_L)}
            record |= {name: value.tolist() for name, value in row.items()}
            lines.append(json.dumps(record))
            self.rows[mask_key(mask_L)] = row
        self._write("".join(line + "\n" for line in lines))

    def close(self) -> None:
        """Close the file. What was appended stays."""
        self._file.close()

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LedgerMismatchError(
                f"the ledger {self.path} is in use by another process; give each process a file of its own"
            ) from error

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            # A torn line: the process died while writing it. What follows must start on a line of its own.
            self._file.truncate(whole)
        lines = content[:whole].splitlines()
        if not lines:
            self._write(json.dumps({"layershap_ledger": 1, "fingerprint": self.fingerprint}) + "\n")
            return
        try:
            header = json.loads(lines[0])
            found = header["fingerprint"]
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerMismatchError(f"{self.path} is not a ledger: its first line is no header") from error
        differing = [k for k in {**found, **self.fingerprint} if found.get(k) != self.fingerprint.get(k)]
        if differing:
            details = "; ".join(f"{k}: {found.get(k)!r} there, {self.fingerprint.get(k)!r} here" for k in differing)
            raise LedgerMismatchError(
                f"the ledger {self.path} was written under other conditions ({details}). Give another ledger path, or "
                f"restore what differs.{_CALIBRATION_CAUSES if 'calibration' in differing else ''}"
            )
        for line in lines[1:]:
            record = json.loads(line)
            mask_L = np.frombuffer(record.pop("mask").encode(), dtype=np.uint8) == ord("1")
            self.rows[mask_key(mask_L)] = {name: np.asarray(value, dtype=np.float64) for name, value in record.items()}

    def _write(self, text: str) -> None:
        self._file.write(text.encode())
        self._file.flush()
        os.fsync(self._file.fileno())


def mask_key(mask_L: MaskArray) -> bytes:
    """A mask as a dictionary key."""
    return np.packbits(mask_L).tobytes()

"""The file of a ledger: opened, read and appended to so that nothing in it is lost.

One JSON object per line (`layershap.ledger.lines`). The first is the header: a fingerprint of everything that a score
depends on. Each other line is one evaluated mask: its bits and its per-sequence statistic sums (floats written so that
they read back bit for bit). A sweep's rows are written together and forced to disk.

A file is changed only once its header is known to be right, and only where something is to be written: then what
follows the last whole line is cut off (a process died while it wrote). Everything else that is wrong is an error, and
the file stays as it is.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from layershap.exceptions import LedgerError, LedgerFormatError, LedgerInUseError, LedgerMismatchError
from layershap.fingerprint import differences
from layershap.ledger.causes import likely_causes
from layershap.ledger.lines import FORMAT, HEADER_BYTES, LineError, MaskRow, RowShape, decode, encode
from layershap.ledger.lock import lock, unlock
from layershap.masks import mask_key
from layershap.protocols import MaskArray
from layershap.warning import warn_user

_OLDER = (
    "it is of an older version, whose scores depended on the masks evaluated beside them (earlier still on what its "
    "fingerprint lacked); start a new file"
)


class Ledger:
    """Evaluated masks on disk. Use as a context manager.

    Parameters
    ----------
    path : str or Path
        File to append to; made if missing, with its folders. ``~`` is the home folder.
    fingerprint : mapping
        Plain JSON values. Resuming a file with another fingerprint is an error.
    shape : RowShape
        What each row holds.

    Attributes
    ----------
    rows : dict of bytes to MaskRow
        Evaluated masks by `mask_key`.

    Raises
    ------
    LedgerMismatchError
        The file belongs to another model, calibration set, statistic or version; the message names the fields.
    LedgerFormatError
        The file is no ledger, or a line of it is damaged; the message names file and line.
    LedgerInUseError
        Another game holds the file; the message names its process.
    LedgerError
        The file can't be opened or written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fingerprint: Mapping[str, Any],
        shape: RowShape,
    ) -> None:
        self.path = Path(path).expanduser()
        self.shape = shape
        self.fingerprint = json.loads(json.dumps(dict(fingerprint)))
        self.rows: dict[bytes, MaskRow] = {}
        self._file, self._writable = _opened(self.path)
        # A ledger that nobody closes gives the file up with the game, or with the process.
        self._release = weakref.finalize(self, _closed, self._file, self.path, self._writable)
        self._tail = (0, "")
        try:
            if self._writable:
                try:
                    lock(self._file, self.path)
                except LedgerInUseError:
                    self._file.close()  # the note is the holder's
                    raise
            self._read()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def append(self, rows: Iterable[tuple[MaskArray, MaskRow]]) -> None:
        """Write the evaluated masks of one sweep and force them to disk.

        Raises
        ------
        LedgerError
            They can't be written. What was in the file stays good.
        """
        self.check_writable()
        sweep = list(rows)
        lines = []
        chain = self._tail[1]
        for mask_L, row in sweep:
            line, chain = encode(self.shape.record(mask_L, row), chain)
            lines.append(line)
        self._write(b"".join(lines), chain)
        self.rows.update({mask_key(mask_L): row for mask_L, row in sweep})

    def check_writable(self) -> None:
        """Make sure that rows can be kept, before they are paid for. A file that was deleted meanwhile is written anew.

        Raises
        ------
        LedgerError
            The file is read-only, or another one is in its place.
        """
        if not self._writable:
            raise LedgerError(
                f"the ledger {self.path} can only be read, and masks that it doesn't hold are asked for; make it "
                "writable, or give another ledger path"
            )
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            self._write_anew()
            return
        own = os.fstat(self._file.fileno())
        if not os.path.samestat(there, own):
            raise LedgerError(f"the ledger {self.path} was replaced by another file while in use; give another path")
        if own.st_size != self._size:
            raise LedgerInUseError(
                f"the ledger {self.path} was changed by something else while in use; give each game that runs at the "
                "same time a ledger of its own"
            )

    def close(self) -> None:
        """Close the file. What was appended stays."""
        self._release()

    # -- reading -----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        header = {"layershap_ledger": FORMAT, "fingerprint": self.fingerprint, "counts": list(self.shape.counts)}
        own_header, own_check = encode(header, "")
        self._size = os.fstat(self._file.fileno()).st_size
        reader = io.BufferedReader(self._file)
        try:
            line = reader.readline(HEADER_BYTES)
            if own_header.startswith(line) and line != own_header:  # nothing, or a header cut while it was written
                self._write(own_header, own_check)
                return
            check = self._read_header(line)
            self._tail = (len(line), check)
            self._read_rows(reader)
        finally:
            reader.detach()

    def _read_header(self, line: bytes) -> str:
        try:
            found, check = decode(line, "")
        except LineError as error:
            if line.startswith(b'{"layershap_ledger": 1,'):
                raise self._damaged(1, _OLDER) from error
            raise LedgerFormatError(f"{self.path} is not a ledger: its line 1 is no header ({error})") from error
        version = found.get("layershap_ledger")
        if version != FORMAT:
            older = isinstance(version, int) and version < FORMAT
            later = f"it must be of format {FORMAT}, it is of {version!r}; a later layershap wrote it"
            raise self._damaged(1, _OLDER if older else later)
        if not isinstance(found.get("fingerprint"), dict):
            raise self._damaged(1, "it holds no fingerprint")
        differing = differences(found["fingerprint"], self.fingerprint)
        if differing:
            raise LedgerMismatchError(
                f"the ledger {self.path} was written under other conditions ({'; '.join(differing.values())}). Give "
                f"another ledger path, or restore what differs.{likely_causes(differing)}"
            )
        return check

    def _read_rows(self, reader: io.BufferedReader[FileIO]) -> None:
        number, (position, check) = 1, self._tail
        while line := reader.readline(self.shape.most_bytes + 1):
            number += 1
            try:
                if len(line) > self.shape.most_bytes:
                    raise LineError(f"it is longer than a row can be, {self.shape.most_bytes:,} bytes")
                if not line.endswith(b"\n"):
                    return  # torn: the process died while writing it
                record, check = decode(line, check)
                key, row = self.shape.parse(record)
                if key in self.rows:
                    raise LineError(f"its mask, {record['mask']}, came before")
            except LineError as error:
                raise self._damaged(number, str(error)) from error
            self.rows[key] = row
            position += len(line)
            self._tail = (position, check)

    def _damaged(self, number: int, reason: str) -> LedgerFormatError:
        kept = (
            f" What comes before, {len(self.rows)} masks, is whole: the file's first {self._tail[0]} bytes are a good "
            "ledger by themselves."
            if self.rows
            else ""
        )
        return LedgerFormatError(f"line {number} of the ledger {self.path} can't be read: {reason}.{kept}")

    # -- writing -----------------------------------------------------------------------------------------------------

    def _write(self, content: bytes, check: str) -> None:
        """Put lines where the last whole line ends; on failure the file ends there again."""
        before = self._tail
        end = before[0]
        try:
            _write_at(self._file, end, content)
            self._size = end + len(content)
            self._tail = (self._size, check)
        except BaseException as error:
            self._tail = before
            with suppress(OSError):  # if even that fails, the next writing or reading cuts it
                self._file.truncate(end)
            self._size = os.fstat(self._file.fileno()).st_size
            if isinstance(error, OSError):
                raise LedgerError(
                    f"the ledger {self.path} can't be written ({error.strerror or error}); what was in it stays good"
                ) from error
            raise

    def _write_anew(self) -> None:
        """The deleted file's whole content, which lives as long as it is open, in a new file of the same name."""
        warn_user(f"the ledger {self.path} was deleted while in use; it is written anew")
        content = os.pread(self._file.fileno(), self._tail[0], 0)
        file, _ = _opened(self.path)
        try:
            lock(file, self.path)
            _write_at(file, 0, content)
        except BaseException:
            file.close()
            raise
        self._file.close()
        self._release.detach()
        self._file = file
        self._release = weakref.finalize(self, _closed, self._file, self.path, True)
        self._size = len(content)


def _opened(path: Path) -> tuple[FileIO, bool]:
    """The file, unbuffered, so that what a full disk refuses isn't kept for later; and whether it can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise LedgerError(f"a ledger must be a regular file, {path} is a device, a pipe or a folder")
        try:
            return FileIO(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+"), True
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not path.exists():
                raise
            return FileIO(path, "r"), False
    except OSError as error:
        raise LedgerError(f"the ledger {path} can't be opened ({error.strerror or error})") from error


def _closed(file: FileIO, path: Path, writable: bool) -> None:
    if writable:
        unlock(file, path)
    else:
        file.close()


def _write_at(file: FileIO, position: int, content: bytes) -> None:
    file.truncate(position)
    file.seek(position)
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) or 0 :]
    os.fsync(file.fileno())

"""One process, and one game of it, writes to a ledger at a time.

The kernel's advisory lock decides, so that a process which is killed leaves nothing behind that would bar the next. A
note beside the file says who holds it; it decides nothing.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from layershap.exceptions import LedgerInUseError
from layershap.warning import warn_user

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows has no advisory locks.
    fcntl = None

_MOST_BYTES = 4096
"""No note is longer."""

_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


def lock(file: FileIO, path: Path) -> None:
    """Hold a ledger until its file is closed; warn where the file system has no locks.

    Raises
    ------
    LedgerInUseError
        Another process, or another game of this one, holds it; the message names it.
    """
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "no locks on this system")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise LedgerInUseError(
                f"the ledger {path} is in use by {_holder(path)}; give each game that runs at the same time a ledger "
                "of its own, or close the other one first"
            ) from error
        warn_user(
            f"the ledger {path} can't be locked ({error.strerror or error}); make sure that nothing else uses it "
            "meanwhile"
        )
    with suppress(OSError):  # a folder that can't be written to, say: the ledger does without the note
        if not _note(path).exists() or _noted(path) is not None:  # a program may have locks of this name of its own
            _note(path).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))


def unlock(file: FileIO, path: Path) -> None:
    """Remove the note and close the file."""
    if not file.closed:
        with suppress(OSError):
            if _noted(path) is not None:
                _note(path).unlink()
        file.close()


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _noted(path: Path) -> tuple[int, str] | None:
    """Process and host in the note; None if there is no note, or another program's file is in its place."""
    try:
        with _note(path).open("rb") as file:
            note = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(note, dict) or set(note) != {"pid", "host"}:
        return None
    pid, host = note["pid"], note["host"]
    return (pid, host) if type(pid) is int and isinstance(host, str) else None


def _holder(path: Path) -> str:
    noted = _noted(path)
    if noted is None:
        return "another process"
    own = " (this process)" if noted == (os.getpid(), socket.gethostname()) else ""
    return f"process {noted[0]} on {noted[1]}{own}"

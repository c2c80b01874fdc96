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
        _note(path).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))


def unlock(file: FileIO, path: Path) -> None:
    """Remove the note and close the file."""
    if not file.closed:
        with suppress(OSError):
            _note(path).unlink()
        file.close()


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _holder(path: Path) -> str:
    try:
        note = json.loads(_note(path).read_text())
        pid, host = int(note["pid"]), str(note["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    own = " (this process)" if (pid, host) == (os.getpid(), socket.gethostname()) else ""
    return f"process {pid} on {host}{own}"

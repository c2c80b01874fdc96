"""What can't be done is told in a sentence, recorded with its reason and passed over: it doesn't end the run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.real_model.subject import Subject
from benchmarks.records import read
from layershap.exceptions import LedgerError

RECORD = "refusals"


@contextmanager
def attempt(subject: Subject, what: str) -> Iterator[None]:
    """Do a part of the run; where it fails, say and record why, and go on after the context.

    A refusal (`ValueError`, which `UnsupportedModelError` is, too) would be the same next time, so it is not tried
    again (see `refused`). Missing memory and other errors of the machine are, and so is a ledger that is in use.
    What an attempt before held is freed first.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        yield
    except (ValueError, RuntimeError, MemoryError) as error:
        again = not isinstance(error, ValueError) or isinstance(error, LedgerError)
        leave_out(subject, what, reason_of(error), again=again)
    else:
        if what in reasons(read(subject.record(RECORD))):
            subject.add(RECORD, {"what": what, "reason": "", "again": True})


def leave_out(subject: Subject, what: str, reason: str, *, again: bool) -> None:
    subject.add(RECORD, {"what": what, "reason": reason, "again": again})
    print(f"{what}: left out{', until the next run' if again else ''}: {reason}", flush=True)


def refused(subject: Subject) -> set[str]:
    """What is not tried again, until the record is deleted."""
    return {row["what"] for row in _latest(read(subject.record(RECORD))) if row["reason"] and not row["again"]}


def reasons(refusals: list[dict[str, Any]]) -> dict[str, str]:
    """Why, by what was left out, unless it was done since."""
    return {row["what"]: row["reason"] for row in _latest(refusals) if row["reason"]}


def reason_of(error: BaseException) -> str:
    """The first line of its message; of missing memory the first two sentences, which say how much."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ". ".join(line.split(". ")[:2]) if isinstance(error, torch.OutOfMemoryError) else line


def _latest(refusals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({row["what"]: row for row in refusals}.values())

"""The ledger of processes that evaluate together: a file for each, and what all of them hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from layershap.exceptions import LedgerFormatError
from layershap.ledger.file import Ledger
from layershap.ledger.lines import MaskRow, RowShape
from layershap.protocols import MaskArray
from layershap.ranks.together import Ranks


class LedgerOfRanks:
    """One rank's ledger, with the rows of all.

    The first rank's file is `path`, the others' are ``path.rank1`` and so on. Another number of ranks may go on: what
    files of ranks that are no more hold is read by the first.

    Parameters
    ----------
    path : str or Path
        The first rank's file.
    fingerprint, shape
        As of `Ledger`.
    ranks : Ranks
        Who evaluates.

    Attributes
    ----------
    rows : dict of bytes to MaskRow
        Evaluated masks by `mask_key`: of all ranks when this was opened, and since then of this one.

    Raises
    ------
    LedgerError
        As of `Ledger`; for two files that hold different rows of one mask too.
    RanksError
        Another rank's file can't be used.
    """

    def __init__(
        self, path: str | os.PathLike[str], fingerprint: Mapping[str, Any], shape: RowShape, ranks: Ranks
    ) -> None:
        first = Path(path).expanduser()
        self._files: list[Ledger] = []

        def opened() -> dict[bytes, MaskRow]:
            own = first if ranks.index == 0 else of_rank(first, ranks.index)
            for file in (own, *(left_behind(first, ranks.count) if ranks.index == 0 else ())):
                self._files.append(Ledger(file, fingerprint, shape))
            return united({file.path: file.rows for file in self._files})

        try:
            found = ranks.together(opened)
            self.rows = united({of_rank(first, index): rows for index, rows in enumerate(found)})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LedgerOfRanks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def check_writable(self) -> None:
        """Make sure that this rank's rows can be kept (`Ledger.check_writable`)."""
        self._files[0].check_writable()

    def append(self, rows: Iterable[tuple[MaskArray, MaskRow]]) -> None:
        """Keep what this rank evaluated (`Ledger.append`)."""
        self._files[0].append(rows)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def of_rank(path: Path, index: int) -> Path:
    """The file of one rank."""
    return path if index == 0 else path.with_name(f"{path.name}.rank{index}")


def left_behind(path: Path, n_ranks: int) -> list[Path]:
    """Files of ranks beyond so many, of a run with more of them."""
    name = re.compile(re.escape(path.name) + r"\.rank([1-9]\d*)")
    if not path.parent.is_dir():
        return []
    found = {int(match[1]): file for file in path.parent.iterdir() if (match := name.fullmatch(file.name))}
    return [found[index] for index in sorted(found) if index >= n_ranks]


def united(rows_of: Mapping[Path, Mapping[bytes, MaskRow]]) -> dict[bytes, MaskRow]:
    """Rows of several ledgers with one fingerprint.

    Raises
    ------
    LedgerFormatError
        Two of them hold different numbers for one mask.
    """
    found: dict[bytes, MaskRow] = {}
    for path, rows in rows_of.items():
        for key, row in rows.items():
            known = found.setdefault(key, row)
            if known is not row and any(not np.array_equal(known[name], row[name], equal_nan=True) for name in row):
                raise LedgerFormatError(
                    f"{path} holds other numbers for a mask than the ledger it belongs to: a mask has one score on one "
                    "model and text; leave out one of the files"
                )
    return found

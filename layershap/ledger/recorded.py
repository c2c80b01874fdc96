"""Ledgers read without their model: what was evaluated, and one file made of several.

Shapes: M masks, L layers, S calibration sequences.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layershap.exceptions import LedgerError, LedgerFormatError, LedgerMismatchError
from layershap.fingerprint import differences
from layershap.ledger.file import Ledger
from layershap.ledger.lines import HEADER_BYTES, LineError, MaskRow, RowShape, decode
from layershap.ledger.of_ranks import left_behind, united
from layershap.protocols import FloatArray, MaskArray, SequenceStatistics, Utility
from layershap.utilities import PerplexityRatio


@dataclass(frozen=True)
class RecordedMasks:
    """What a ledger holds.

    Attributes
    ----------
    masks : ndarray [M, L] of bool
        Evaluated masks, in the order of the file.
    sums : dict of str to ndarray [M, S]
        Sums of each statistic over each sequence; ``score`` [M, 1] for a utility that was a plain callable.
    counts : ndarray [S]
        Number of scored tokens of each sequence.
    fingerprint : dict
        Everything that the scores depend on.
    """

    masks: MaskArray
    sums: dict[str, FloatArray]
    counts: FloatArray
    fingerprint: dict[str, Any]

    @property
    def statistics(self) -> SequenceStatistics:
        """The sums as utilities read them.

        Raises
        ------
        LedgerError
            The model with all its layers is not among the masks, so that there is nothing to compare with; or the
            scores are those of a plain callable.
        """
        whole = np.flatnonzero(self.masks.all(axis=1))
        if "score" in self.sums:
            raise LedgerError("a utility that is a plain callable left one score for each mask, no statistics to reuse")
        if not len(whole):
            raise LedgerError("the ledger must hold the mask that keeps all layers; evaluate it, or finish the fit")
        dense = {name: value_MS[whole[0]] for name, value_MS in self.sums.items()}
        return SequenceStatistics(dict(self.sums), dense, self.counts)

    def scores(self, utility: Utility | None = None) -> FloatArray:
        """Scores [M] by a utility that reads the statistics kept; by default `PerplexityRatio`, or a callable's own.

        Raises
        ------
        LedgerError
            The ledger doesn't hold what the utility reads.
        """
        if utility is None and "score" in self.sums:
            return self.sums["score"][:, 0]
        chosen: Utility = PerplexityRatio() if utility is None else utility
        missing = sorted(set(chosen.statistics) - set(self.sums))
        if missing:
            raise LedgerError(
                f"{type(chosen).__name__} reads {missing}, which the ledger doesn't hold (it has {sorted(self.sums)}); "
                "give a utility that reads these"
            )
        return chosen.score(self.statistics)


def read_ledger(path: str | os.PathLike[str]) -> RecordedMasks:
    """What a ledger holds, with the files of further ranks beside it; no model is needed.

    Raises
    ------
    LedgerError
        It can't be read, or is in use.
    """
    first = Path(path).expanduser()
    shape, fingerprint = _header(first)
    return _recorded(_rows_of([first, *left_behind(first, 1)], shape, fingerprint), shape, fingerprint)


def merge_ledgers(paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> RecordedMasks:
    """One ledger of several runs on one model, text and statistics; a game resumes from it as from any other.

    Parameters
    ----------
    paths : sequence of path
        Ledgers; files of further ranks beside them are read too. They stay as they are.
    out : path
        A new file.

    Raises
    ------
    LedgerMismatchError
        Two of them were written under different conditions; the message names them.
    LedgerFormatError
        Two of them hold different numbers for one mask.
    ValueError
        No path, or `out` exists.
    """
    if not paths:
        raise ValueError("paths must name at least one ledger, got none")
    target = Path(out).expanduser()
    if target.exists():
        raise ValueError(f"out must be a new file, {target} exists")
    first, *others = [Path(path).expanduser() for path in paths]
    shape, fingerprint = _header(first)
    for other in others:
        differing = differences(_header(other)[1], fingerprint)
        if differing:
            raise LedgerMismatchError(
                f"ledgers of different games can't be one: {other} and {first} differ ({'; '.join(differing.values())})"
            )
    files = [file for path in (first, *others) for file in (path, *left_behind(path, 1))]
    found = _recorded(_rows_of(files, shape, fingerprint), shape, fingerprint)
    with Ledger(target, fingerprint, shape) as ledger:
        rows = [{name: value_MS[m] for name, value_MS in found.sums.items()} for m in range(len(found.masks))]
        ledger.append(zip(found.masks, rows, strict=True))
    return found


def _header(path: Path) -> tuple[RowShape, dict[str, Any]]:
    """What rows of a ledger look like, and its fingerprint, as the file itself says."""
    try:
        with path.open("rb") as file:
            header, check = decode(file.readline(HEADER_BYTES), "")
            row = file.readline()
            players = (
                len(decode(row, check)[0]["mask"]) if row.endswith(b"\n") else int(header["fingerprint"]["n_layers"])
            )
        fingerprint = header["fingerprint"]
        shape = RowShape(players, tuple(map(int, header["counts"])), tuple(fingerprint["statistics"]))
    except OSError as error:
        raise LedgerError(f"the ledger {path} can't be read ({error.strerror or error})") from error
    except (LineError, KeyError, TypeError, ValueError) as error:
        raise LedgerFormatError(
            f"{path} is no ledger of this version: its first lines can't be read ({error})"
        ) from error
    return shape, fingerprint


def _rows_of(files: Sequence[Path], shape: RowShape, fingerprint: Mapping[str, Any]) -> dict[bytes, MaskRow]:
    rows: dict[Path, dict[bytes, MaskRow]] = {}
    for file in files:
        with Ledger(file, fingerprint, shape) as ledger:
            rows[file] = ledger.rows
    return united(rows)


def _recorded(rows: Mapping[bytes, MaskRow], shape: RowShape, fingerprint: dict[str, Any]) -> RecordedMasks:
    packed = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), -(-shape.n_players // 8))
    masks_ML = np.unpackbits(packed, axis=1, count=shape.n_players).astype(bool)
    sums = {
        name: np.array([row[name] for row in rows.values()]).reshape(len(rows), shape.n_sequences)
        for name in shape.statistics
    }
    return RecordedMasks(masks_ML, sums, np.array(shape.counts, dtype=np.float64), fingerprint)

"""The file of one model: which sets each method removed, and what the model scores without them.

A set is compared by one measure with another of the same size only: a measure's name holds text, protocol and number of
sequences.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Measured:
    """A text under a protocol.

    Attributes
    ----------
    protocol : str
        Its name in `layershap.PERPLEXITY_PROTOCOLS`.
    tokens : int
        Tokens scored.
    dense : float
        Perplexity of the whole model.
    """

    protocol: str
    tokens: int
    dense: float


@dataclass(frozen=True)
class Entry:
    """A set of removed layers.

    Attributes
    ----------
    method : str
        Who chose it, on how many calibration sequences.
    removed : list of int
        Layers, counted from 0 in the whole model.
    perplexity : dict of str to float
        By measure; one that overflows is None.
    calibrated_on : str
        The text that the method read; '' if it read none.
    command : str
        What made and scored it.
    date : str
        When it was scored, year first.
    versions : dict of str to str
        Of the packages, as far as they were recorded.
    """

    method: str
    removed: list[int]
    perplexity: dict[str, float | None]
    calibrated_on: str
    command: str
    date: str
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """How many layers are removed."""
        return len(self.removed)


@dataclass(frozen=True)
class Board:
    """All that is known of one model. `note` says what a reader must know before figures are compared."""

    model: str
    title: str
    n_layers: int
    note: str
    measures: dict[str, Measured]
    entries: list[Entry]

    @classmethod
    def read(cls, model: str, folder: Path = FOLDER) -> Board:
        """The model's file.

        Raises
        ------
        ValueError
            The file is of another format, or an entry names layers that the model hasn't got.
        """
        path = folder / f"{model}.json"
        if not path.exists():
            raise SystemExit(f"no file {path}; there are: {', '.join(models(folder)) or 'none'}")
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("format", None) != FORMAT:
            raise ValueError(f"{path} must be of format {FORMAT}")
        measures = {key: Measured(**value) for key, value in data.pop("measures").items()}
        entries = [Entry(**entry) for entry in data.pop("entries")]
        board = cls(**data, measures=measures, entries=entries)
        for entry in board.entries:
            check_removed(entry.removed, board.n_layers)
        return board

    def write(self, folder: Path = FOLDER) -> None:
        """One line for each measure and entry, so that a diff shows what was added."""
        rest: dict[str, Any] = {"format": FORMAT} | asdict(self)
        measures, entries = rest.pop("measures"), rest.pop("entries")
        lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in rest.items()]
        rows = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in measures.items()]
        lines.append(' "measures": {\n' + ",\n".join(rows) + "\n }")
        lines.append(' "entries": [\n' + ",\n".join(f"  {json.dumps(entry)}" for entry in entries) + "\n ]")
        (folder / f"{self.model}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    def of_size(self, n: int) -> list[Entry]:
        """Entries that remove n layers."""
        return [entry for entry in self.entries if entry.n == n]

    def sizes(self) -> list[int]:
        """Numbers of removed layers that there are entries of."""
        return sorted({entry.n for entry in self.entries})

    def methods(self) -> list[str]:
        """Methods in the order of the entries."""
        return list(dict.fromkeys(entry.method for entry in self.entries))

    def best(self, measure: str, n: int) -> Entry | None:
        """The entry of lowest perplexity; None if none was measured."""
        known = [entry for entry in self.of_size(n) if entry.perplexity.get(measure) is not None]
        return min(known, key=lambda entry: figure(entry, measure), default=None)


def figure(entry: Entry, measure: str) -> float:
    """Perplexity; infinite where it overflows or wasn't measured."""
    found = entry.perplexity.get(measure)
    return math.inf if found is None else found


def models(folder: Path = FOLDER) -> list[str]:
    """Models that have a file."""
    return sorted(path.stem for path in folder.glob("*.json"))


def check_removed(removed: list[int], n_layers: int) -> None:
    """Sorted, distinct, of the model, and not all of it."""
    proper = all(isinstance(layer, int) and 0 <= layer < n_layers for layer in removed)
    if not proper or removed != sorted(set(removed)) or not 0 < len(removed) < n_layers:
        raise ValueError(
            f"a set must hold 1 to {n_layers - 1} distinct layers from 0 to {n_layers - 1} in ascending order, "
            f"got {removed}"
        )

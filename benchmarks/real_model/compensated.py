"""Sets that another row chose, removed with a compensation of the kept layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.records import read
from layershap import Calibration, remove_layers


@dataclass
class Compensated:
    """Removes what a finished row chose, and compensates on the text that `fit` is given.

    Attributes
    ----------
    record : Path
        The finished rows.
    key : str
        The row whose sets are removed.
    method : str
        "Rescale" or "LinearRefit", with its defaults.
    """

    record: Path
    key: str
    method: str
    sets_: dict[str, list[int] | None] = field(init=False)
    calibration_: Calibration = field(init=False)

    def fit(self, model: Any, calibration: Calibration) -> Compensated:
        """Take the sets from the record; the model is not read."""
        found = {row["key"]: row for row in read(self.record)}
        if self.key not in found:
            raise SystemExit(f"fit the row {self.key!r} first: its sets are compensated")
        self.sets_, self.calibration_ = found[self.key]["sets"], calibration
        return self

    def transform(self, model: Any, n_remove: int) -> Any:
        # Imported where it is needed: all other rows do without.
        from layershap.compensation import LinearRefit, Rescale

        layers = self.sets_[str(n_remove)]
        if layers is None:
            raise ValueError(f"{self.key} has no set of {n_remove} layers")
        compensation = {"Rescale": Rescale, "LinearRefit": LinearRefit}[self.method]()
        return remove_layers(model, layers, compensation=compensation, calibration=self.calibration_)

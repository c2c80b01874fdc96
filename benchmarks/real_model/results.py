"""What was measured, read from the records: perplexities, accuracies, and how sure their differences are.

Shapes: S sequences, Q questions.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.real_model.records import layers_key, made_key
from benchmarks.real_model.rows import N_RANDOM
from benchmarks.real_model.subject import TASKS
from benchmarks.records import made_on
from layershap.comparison.difference import PairedDifference, paired_difference
from layershap.protocols import FloatArray

RANDOM = "random, median of five"


@dataclass(frozen=True)
class Results:
    """Finished rows by key, and tests by (measure, set)."""

    fits: dict[str, dict[str, Any]]
    tests: dict[tuple[str, str], dict[str, Any]]

    @classmethod
    def of(cls, fits: list[dict[str, Any]], tests: list[dict[str, Any]]) -> Results:
        return cls({row["key"]: row for row in fits}, {(row["measure"], row["set"]): row for row in tests})

    def test(self, measure: str, key: str, n: int) -> dict[str, Any] | None:
        """The test of a row's choice of n layers; None if the row has none, or it wasn't tested yet."""
        if key not in self.fits:
            return None
        sets = self.fits[key]["sets"]
        if not sets:
            return self.tests.get((measure, made_key(key, n)))
        removed = sets.get(str(n))
        return None if removed is None else self.tests.get((measure, layers_key(removed)))

    def perplexity(self, measure: str, key: str, n: int) -> float:
        """NaN where it isn't known; of the random rows the median."""
        if key == RANDOM:
            return median_of([self.perplexity(measure, name, n) for name in self.random_rows])
        return perplexity(self.test(measure, key, n))

    def accuracy(self, measures: list[str], key: str, n: int, metric: str = "acc") -> tuple[float, float]:
        """Mean over the tasks, and its standard error; NaN where a task is missing."""
        if key == RANDOM:
            found = [self.accuracy(measures, name, n, metric) for name in self.random_rows]
            return median_of([mean for mean, _ in found]), median_of([error for _, error in found])
        return mean_accuracy([self.test(measure, key, n) for measure in measures], metric)

    def tested(self, measures: list[str]) -> Results:
        """Only the rows of which something was tested: the others have no figures to show."""
        depths = self.depths
        fits = {k: row for k, row in self.fits.items() if any(self.test(m, k, n) for m in measures for n in depths)}
        return replace(self, fits=fits)

    @property
    def depths(self) -> list[int]:
        """All numbers of removed layers."""
        return sorted({int(n) for row in self.fits.values() for n in row["sets"]})

    @property
    def random_rows(self) -> list[str]:
        """All five, or none while some are missing: until then each stands for itself."""
        found = [key for key in self.fits if key.startswith("random ")]
        return found if len(found) == N_RANDOM else []

    @property
    def compensated(self) -> list[str]:
        """Rows whose kept layers were changed: another comparison than that of which layers go."""
        return [key for key, row in self.fits.items() if row.get("compensates")]

    def seconds_made(self, key: str, n: int) -> float:
        """CPU seconds of a removal with its compensation; NaN if it isn't tested yet."""
        found = [row["made_cpu_seconds"] for (_, name), row in self.tests.items() if name == made_key(key, n)]
        return max(found, default=math.nan)

    def layers(self, key: str, n: int) -> list[int] | None:
        """The n layers that a row removes: where it compensates, those of another row; None if they aren't known."""
        row = self.fits[key]
        found: list[int] | None = self.fits.get(row.get("compensates", key), row)["sets"].get(str(n))
        return found

    def difference(self, measure: str, key: str, other: str, n: int) -> PairedDifference | None:
        """By how much the perplexity of one row is higher than another's; None where either isn't known."""
        first, second = self.test(measure, key, n), self.test(measure, other, n)
        return None if first is None or second is None else difference(first, second)


def standard_error(values: FloatArray) -> float:
    """Of their mean; NaN for a single one."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def median_of(values: list[float]) -> float:
    return float(np.median(values)) if values else math.nan


def perplexity(test: dict[str, Any] | None) -> float:
    if test is None:
        return math.nan
    with np.errstate(over="ignore"):
        return float(np.exp(np.sum(test["nll"]) / test["tokens"]))


def difference(test: dict[str, Any], other: dict[str, Any]) -> PairedDifference:
    """By how much the perplexity of one test is higher than another's: all sequences have as many scored tokens."""
    count = len(test["nll"])
    tokens_S = np.full(count, test["tokens"] / count)
    return paired_difference(np.array(test["nll"]), np.array(other["nll"]), tokens_S)


def mean_accuracy(tests: list[dict[str, Any] | None], metric: str) -> tuple[float, float]:
    """Mean over the tasks of the share that is right, and its standard error over the questions."""
    if not tests or any(test is None for test in tests):
        return math.nan, math.nan
    right = [np.array(test.get(metric, test["acc"]), dtype=float) for test in tests if test is not None]
    error = math.hypot(*map(standard_error, right)) / len(right)
    return float(np.mean([values.mean() for values in right])), error


def is_task(measure: str) -> bool:
    return measure.split(",")[0] in TASKS


def how_made(rows: list[dict[str, Any]]) -> str:
    """When and on which machines rows were run; on what device, of those that say so."""
    found = Counter((row["dtype"], row["device"], row["threads"]) for row in rows if "device" in row)
    parts = [f"{n} in {dtype} on {device}, torch threads: {threads}" for (dtype, device, threads), n in found.items()]
    return f"{made_on(rows)} Of these {'; '.join(parts)}." if parts else made_on(rows)

"""The figures of an evaluation as plain records, and tables of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from layershap.escaping import one_line
from layershap.tables import aligned, html_table


@dataclass(frozen=True)
class Score:
    """One figure of an evaluation.

    Attributes
    ----------
    task, metric : str
        Names of the task and the metric: ``('arc_easy', 'acc')``, ``('text', 'perplexity')``.
    value : float
        The figure.
    std_error : float
        Standard error of the figure over sequences or questions; NaN where unknown.
    n : int
        Number of sequences or questions.
    higher_is_better : bool or None
        False for perplexities; None where neither is, as for the length of answers.
    protocol : str
        Condition for a comparison with other figures: a perplexity protocol's name, ``rows`` for rows scored here,
        lm-evaluation-harness's version, or how answers were generated.
    """

    task: str
    metric: str
    value: float
    std_error: float
    n: int
    higher_is_better: bool | None
    protocol: str


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model.

    Attributes
    ----------
    scores : tuple of Score
        Scores in the order asked for.

    See Also
    --------
    layershap.side_by_side : A table of several evaluations.
    """

    scores: tuple[Score, ...]

    def __getitem__(self, key: tuple[str, str]) -> Score:
        """The score of (task, metric)."""
        for score in self.scores:
            if (score.task, score.metric) == key:
                return score
        raise KeyError(f"no score {key}; there are {[(s.task, s.metric) for s in self.scores]}")

    def to_records(self) -> list[dict[str, Any]]:
        """Plain dicts, for JSON or ``pandas.DataFrame``."""
        return [asdict(score) for score in self.scores]

    def __str__(self) -> str:
        return str(side_by_side({"value": self}))

    def _repr_html_(self) -> str:
        return side_by_side({"value": self})._repr_html_()


@dataclass(frozen=True)
class EvaluationTable:
    """The scores of several models side by side.

    Attributes
    ----------
    evaluations : dict of str to Evaluation
        Evaluations by model name, in the order of the columns.
    """

    evaluations: Mapping[str, Evaluation]

    def to_records(self) -> list[dict[str, Any]]:
        """One dict for each figure, with a value and a standard error for each model.

        Figures of another protocol, or over another number of sequences or questions, get a row of their own.
        """
        rows: dict[tuple[str, str, str, int], dict[str, Any]] = {}
        for name, evaluation in self.evaluations.items():
            for score in evaluation.scores:
                row = rows.setdefault(
                    (score.task, score.metric, score.protocol, score.n),
                    {"task": score.task, "metric": score.metric, "protocol": score.protocol, "n": score.n},
                )
                row[name], row[f"{name} std_error"] = score.value, score.std_error
        return list(rows.values())

    def _cells(self) -> list[list[str]]:
        """Headings, then a line for each figure."""
        names = list(self.evaluations)
        table = [["task", "metric", "protocol", "n", *names]]
        for row in self.to_records():
            cells = [_cell(row.get(name), row.get(f"{name} std_error", math.nan)) for name in names]
            table.append([row["task"], row["metric"], row["protocol"], str(row["n"]), *cells])
        return [[one_line(cell) for cell in line] for line in table]

    def _repr_html_(self) -> str:
        head, *body = self._cells()
        return html_table(head, body)

    def __str__(self) -> str:
        return "\n".join(aligned(self._cells(), self._right()))

    def _right(self) -> list[bool]:
        """Which columns hold numbers: all but task, metric and protocol."""
        return [False] * 3 + [True] * (1 + len(self.evaluations))


def side_by_side(evaluations: Mapping[str, Evaluation]) -> EvaluationTable:
    """Table of several `evaluations`, a mapping of model name to `Evaluation`.

    ``print(side_by_side({"dense": evaluate(model, ...), "pruned": evaluate(small, ...)}))`` shows it.
    """
    return EvaluationTable(dict(evaluations))


def _cell(value: float | None, error: float) -> str:
    if value is None:
        return "-"
    figure = f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"
    return figure if math.isnan(error) else f"{figure} ± {error:.2f}" if abs(value) >= 10 else f"{figure} ± {error:.4f}"

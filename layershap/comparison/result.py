"""What `compare` returns: choices, costs, tables and a picture.

Shapes: N numbers of removed layers, S evaluation sequences.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from layershap.comparison.difference import PairedDifference, paired_difference
from layershap.display import DepthCurveDisplay
from layershap.protocols import FloatArray
from layershap.tables import Table, format_cell

_PAIRED = (
    "± one standard error over the sequences, which both have read. It says how sure a difference is on this kind of "
    "text, not what other calibration text would have chosen."
)


@dataclass(frozen=True)
class Choice:
    """The layers that one method chose for one number of layers, and the scores of the model without them.

    Attributes
    ----------
    method : str
        Name of the method.
    n_remove : int
        Number of layers removed.
    layers : tuple of int
        Indices of the layers removed; empty for a method that narrows the model instead.
    perplexity : float
        Perplexity of the pruned model on the evaluation data, under the comparison's protocol: mean token NLL,
        exponentiated once.
    tasks : dict of str to float
        Score of each task.
    nll : ndarray [S]
        Negative log-likelihood in nats, summed over the scored tokens of each evaluation sequence.
    """

    method: str
    n_remove: int
    layers: tuple[int, ...]
    perplexity: float
    tasks: dict[str, float]
    nll: FloatArray = field(repr=False, compare=False)


@dataclass(frozen=True)
class Cost:
    """Cost of fitting one method.

    Attributes
    ----------
    masks : int or None
        Number of different masked models evaluated; None for a method that doesn't tell. The few that `LayerPruner`
        evaluates again on further text, for its final choice, count once.
    layer_runs : int or None
        Number of runs of one layer on the whole calibration set; a run on a part of it (of a search, of a final choice)
        counts by the part's share of the tokens.
    seconds : float or None
        Wall-clock time of `fit`; None for a method that was fitted before and doesn't tell.
    """

    masks: int | None
    layer_runs: int | None
    seconds: float | None


@dataclass(frozen=True)
class MethodComparison:
    """Result of `compare`: ``print`` gives Markdown tables, a notebook shows HTML, `plot` draws one picture.

    Attributes
    ----------
    n_layers : int
        Number of layers L of the model.
    n_removes : tuple of int
        The N numbers of removed layers.
    dense : Choice
        The model with all its layers.
    choices : tuple of Choice
        One choice for each method and number, in the order asked for; a method that can't remove so many layers has
        none.
    costs : dict of str to Cost
        Cost of each method, by name.
    protocol : str
        Protocol of the perplexities: a `PerplexityProtocol`'s name, or the length of the sequences that were given.
    tokens : ndarray [S]
        Number of scored tokens of each sequence of the evaluation data, all of them measured.
    """

    n_layers: int
    n_removes: tuple[int, ...]
    dense: Choice
    choices: tuple[Choice, ...]
    costs: dict[str, Cost]
    protocol: str
    tokens: FloatArray = field(repr=False, compare=False)

    @property
    def n_sequences(self) -> int:
        """Number of evaluation sequences S."""
        return len(self.tokens)

    def __getitem__(self, key: tuple[str, int]) -> Choice:
        """The choice of (method, n_remove)."""
        for choice in self.choices:
            if (choice.method, choice.n_remove) == key:
                return choice
        raise KeyError(f"no choice {key}; methods {list(self.costs)}, n_removes {list(self.n_removes)}")

    def figure(self, task: str | None = None) -> str:
        """What the numbers are: a task's name, or the perplexity with its protocol and number of sequences."""
        return task or f"perplexity ({self.protocol}, n = {self.n_sequences:,})"

    def whole(self, task: str | None = None) -> float:
        """Perplexity, or the score of `task`, of the model with all its layers."""
        return self.dense.perplexity if task is None else self.dense.tasks[task]

    def curve(self, method: str, task: str | None = None) -> list[float]:
        """Figures of one method at each number of removed layers.

        Parameters
        ----------
        method : str
            Name of the method.
        task : str, optional
            Name of a task. By default the figure is the perplexity.

        Returns
        -------
        ndarray [N]
            One figure for each of `n_removes`; NaN where the method has no choice.
        """
        found = {choice.n_remove: choice for choice in self.choices if choice.method == method}
        return [
            float("nan") if n not in found else found[n].perplexity if task is None else found[n].tasks[task]
            for n in self.n_removes
        ]

    def difference(self, method: str, other: str, n_remove: int) -> PairedDifference:
        """How far a method's perplexity is above another's, and how sure that is.

        Parameters
        ----------
        method, other : str
            Names of the methods.
        n_remove : int
            Number of layers that both remove.

        Returns
        -------
        PairedDifference
            In nats per token and in percent, with a standard error over the evaluation sequences.

        Raises
        ------
        KeyError
            One of them has no choice of so many layers.
        """
        return paired_difference(self[method, n_remove].nll, self[other, n_remove].nll, self.tokens)

    def differences(self, other: str) -> dict[tuple[str, int], PairedDifference]:
        """How far the perplexity of each choice, by (method, n_remove), is above that of `other` at the same number."""
        if other not in self.costs:
            raise KeyError(f"no method {other!r}; there are {list(self.costs)}")
        numbers = {choice.n_remove for choice in self.choices if choice.method == other}
        return {
            (choice.method, choice.n_remove): self.difference(choice.method, other, choice.n_remove)
            for choice in self.choices
            if choice.method != other and choice.n_remove in numbers
        }

    def against(self, other: str) -> Table:
        """The `differences` from `other` as a table: percent of its perplexity, with standard errors."""
        found = self.differences(other)
        rows = [
            (name, *(str(found[name, n]) if (name, n) in found else None for n in self.n_removes))
            for name in self.costs
            if name != other
        ]
        columns = (f"{self.figure()} above {other}'s", *(f"-{n}" for n in self.n_removes))
        return Table("Layers removed", columns, tuple(rows), _PAIRED)

    def to_records(self) -> list[dict[str, Any]]:
        """One flat dict for each method and number, with the method's cost: for JSON or ``pandas.DataFrame``.

        Each method begins with the whole model, ``n_remove`` 0, so that ``frame.pivot(index="n_remove",
        columns="method", values="perplexity")`` is a table of curves from the whole model on.
        """
        records = []
        for method, cost in self.costs.items():
            start = replace(self.dense, method=method)
            for choice in (start, *(found for found in self.choices if found.method == method)):
                record = {**asdict(choice), "protocol": self.protocol, "n_sequences": self.n_sequences, **asdict(cost)}
                record |= record.pop("tasks")
                del record["nll"]
                records.append(record)
        return records

    def tables(self) -> list[Table]:
        """Perplexities by number of removed layers, then one table for each task, with costs."""
        return [self._table(None), *[self._table(task) for task in self.dense.tasks]]

    def to_markdown(self) -> str:
        """The tables, the heading of the first column being what their numbers are."""
        return "\n\n".join(table.to_markdown() for table in self.tables())

    def __str__(self) -> str:
        return self.to_markdown()

    def _repr_html_(self) -> str:
        return "".join(table.to_html() for table in self.tables())

    def _table(self, task: str | None) -> Table:
        columns = (self.figure(task), *(f"-{n}" for n in self.n_removes), "masks", "layer runs", "seconds")
        whole = f"all {self.n_layers} layers: {format_cell(self.whole(task))}"
        rows = [
            (
                method,
                *self.curve(method, task),
                cost.masks,
                cost.layer_runs,
                None if cost.seconds is None else round(cost.seconds, 1),
            )
            for method, cost in self.costs.items()
        ]
        return Table("Layers removed", columns, ((whole, *[None] * (len(columns) - 1)), *rows))

    def display(self, task: str | None = None) -> DepthCurveDisplay:
        """Display with one curve per method of perplexity, or of `task`, from the model with all its layers on."""
        return DepthCurveDisplay.from_comparison(self, task)

    def plot(self, ax: Any = None, task: str | None = None) -> DepthCurveDisplay:
        """Draw the curves with matplotlib (extra ``plot``).

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to draw on. By default those of a new figure.
        task : str, optional
            Name of a task. By default the figure is the perplexity.

        Returns
        -------
        DepthCurveDisplay
            The drawn display.
        """
        return self.display(task).plot(ax)

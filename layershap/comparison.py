"""`compare`: fit several pruning methods on one model and set what they choose side by side.

Shapes: L layers, N numbers of removed layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral
from typing import Any, Protocol, TypeAlias

import numpy as np
from sklearn.base import clone
from torch import nn

from layershap.calibration import Calibration, as_calibration
from layershap.display import DepthCurveDisplay
from layershap.game import LayerGame
from layershap.model.stack import LayersArgument, find_layers
from layershap.protocols import FloatArray, MaskArray, Utility
from layershap.tasks import Task
from layershap.utilities import NegativeLogLikelihood

TaskLike: TypeAlias = "Callable[[nn.Module], float] | tuple[Utility, Any]"
"""A function of the masked model, or a utility with the data that it scores on."""


class DepthPruningMethod(Protocol):
    """What `compare` asks of a method: `LayerPruner` and `layershap.baselines` qualify.

    A method without `removed_layers` (`SliceGPT`) is measured on what its ``transform(model, n_remove)`` returns.
    """

    diagnostics_: dict[str, Any]

    def fit(self, model: nn.Module, calib_data: Any = None, *, tokenizer: Any = None) -> Any:
        """Look at the model and the calibration data."""
        ...

    def removed_layers(self, n_remove: int | None = None) -> list[int]:
        """The layers to remove."""
        ...


@dataclass(frozen=True)
class Choice:
    """What one method chose for one number of layers, and what is left of the model.

    Attributes
    ----------
    method : str
        Its name.
    n_remove : int
        Layers removed.
    layers : tuple of int
        Which ones; none for a method that narrows the model instead.
    perplexity : float
        Of the pruned model on the evaluation data: mean token NLL, exponentiated once.
    tasks : dict of str to float
        Score of each task.
    """

    method: str
    n_remove: int
    layers: tuple[int, ...]
    perplexity: float
    tasks: dict[str, float]


@dataclass(frozen=True)
class Cost:
    """What fitting one method took.

    Attributes
    ----------
    masks : int
        Different masked models evaluated. The few that `LayerPruner` evaluates again on further text, for its final
        choice, count once.
    layer_runs : int
        Runs of one layer on the whole calibration set; those on a part of it (of a search, of a final choice) count by
        their share of its tokens.
    seconds : float
        Wall-clock time of `fit`.
    """

    masks: int
    layer_runs: int
    seconds: float


@dataclass(frozen=True)
class MethodComparison:
    """The numbers of `compare`; `str` and `to_markdown` give one table, `plot` one picture.

    Attributes
    ----------
    n_layers : int
        L.
    n_removes : tuple of int
        N numbers of removed layers.
    dense : Choice
        The model with all its layers.
    choices : tuple of Choice
        One for each method and number, in the order asked for; a method that can't remove that many has none.
    costs : dict of str to Cost
        By method.
    """

    n_layers: int
    n_removes: tuple[int, ...]
    dense: Choice
    choices: tuple[Choice, ...]
    costs: dict[str, Cost]

    def __getitem__(self, key: tuple[str, int]) -> Choice:
        """The choice of (method, n_remove)."""
        for choice in self.choices:
            if (choice.method, choice.n_remove) == key:
                return choice
        raise KeyError(f"no choice {key}; methods {list(self.costs)}, n_removes {list(self.n_removes)}")

    def curve(self, method: str, task: str | None = None) -> list[float]:
        """Perplexity, or a task's score, at each of `n_removes` [N]; NaN where there is none."""
        found = {choice.n_remove: choice for choice in self.choices if choice.method == method}
        return [
            float("nan") if n not in found else found[n].perplexity if task is None else found[n].tasks[task]
            for n in self.n_removes
        ]

    def to_records(self) -> list[dict[str, Any]]:
        """One flat dict for each choice, with its method's cost: for JSON or ``pandas.DataFrame``."""
        records = []
        for choice in (self.dense, *self.choices):
            cost = self.costs.get(choice.method, Cost(0, 0, 0.0))
            record = {**asdict(choice), **asdict(cost)}
            record |= record.pop("tasks")
            records.append(record)
        return records

    def to_markdown(self) -> str:
        """Perplexities by number of removed layers, then one table for each task, with costs."""
        parts = [self._table("perplexity", None)]
        parts += [self._table(task, task) for task in self.dense.tasks]
        return "\n\n".join(parts)

    def __str__(self) -> str:
        return self.to_markdown()

    def _table(self, title: str, task: str | None) -> str:
        whole = self.dense.perplexity if task is None else self.dense.tasks[task]
        header = [title, *(f"-{n}" for n in self.n_removes), "masks", "layer runs", "seconds"]
        rows = [[f"all {self.n_layers} layers: {_number(whole)}", *[""] * (len(header) - 1)]]
        for method, cost in self.costs.items():
            figures = [_number(value) for value in self.curve(method, task)]
            rows.append([method, *figures, f"{cost.masks:,}", f"{cost.layer_runs:,}", f"{cost.seconds:.1f}"])
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def display(self, task: str | None = None) -> DepthCurveDisplay:
        """The numbers of the picture: one curve for each method, from the model with all its layers on."""
        whole = self.dense.perplexity if task is None else self.dense.tasks[task]
        return DepthCurveDisplay(
            np.array([0, *self.n_removes]),
            {method: np.array([whole, *self.curve(method, task)]) for method in self.costs},
            "perplexity on the evaluation data" if task is None else task,
            logarithmic=task is None,
        )

    def plot(self, ax: Any = None, task: str | None = None) -> DepthCurveDisplay:
        """Draw the curves on matplotlib axes (a new figure by default). Needs the extra ``plot``."""
        return self.display(task).plot(ax)


def compare(
    model: nn.Module,
    calib_data: Any,
    eval_data: Any,
    methods: Mapping[str, DepthPruningMethod],
    n_removes: Sequence[int],
    *,
    tasks: Mapping[str, TaskLike] | None = None,
    tokenizer: Any = None,
    layers: LayersArgument = None,
) -> MethodComparison:
    """Fit each method on the same calibration data and measure what it chooses on the same evaluation data.

    The chosen sets of all methods are evaluated together, as masks of one game: each distinct set once.

    Parameters
    ----------
    model : nn.Module
        Causal language model; only read.
    calib_data, eval_data : Calibration, Tensor [S, T], texts, datasets.Dataset, DataLoader or iterable of batches
        What the methods see, and what perplexities are measured on.
    methods : mapping of str to estimator
        By the name that tables show; cloned, never changed.
    n_removes : sequence of int
        Numbers of layers to remove.
    tasks : mapping of str to callable or (utility, data), optional
        More scores for each choice: ``f(model) -> float``, called with the layers skipped, or a utility and the data
        that it scores on.
    tokenizer : PreTrainedTokenizerBase, optional
        For texts.
    layers : str or sequence of nn.Module, optional
        Where the layers are, if the rule can't know; methods have a parameter of their own for that.

    Raises
    ------
    ValueError
        No methods or no numbers; a number that no method can remove (with each method's reason); a task named like a
        column of the records; or a method that counts sublayers.
    TypeError
        `methods` or `tasks` without names, numbers that are no ints, or a `Task` in place of its parts.

    Examples
    --------
    >>> from layershap import LayerPruner
    >>> from layershap.baselines import LastLayers, ShortGPT
    >>> from layershap.comparison import compare
    >>> from layershap.datasets import load_calibration_text, load_evaluation_text, load_tiny_gpt2
    >>> model, tokenizer = load_tiny_gpt2()
    >>> table = compare(
    ...     model, load_calibration_text(), load_evaluation_text(), {"ShortGPT": ShortGPT(), "last": LastLayers()},
    ...     n_removes=[1, 2], tokenizer=tokenizer,
    ... )
    >>> table["last", 2].layers
    (10, 11)
    """
    _check_kinds(methods, {} if tasks is None else tasks, {"calib_data": calib_data, "eval_data": eval_data})
    numbers = _whole_numbers(n_removes)
    if not methods or not numbers:
        raise ValueError(f"compare needs a method and a number to remove, got {list(methods)} and {list(numbers)}")
    calibration, held_out = as_calibration(calib_data, tokenizer), as_calibration(eval_data, tokenizer)
    n_layers = len(find_layers(model, layers))
    costs: dict[str, Cost] = {}
    chosen: dict[tuple[str, int], tuple[int, ...]] = {("", 0): ()}
    narrowed: list[Choice] = []
    refused: dict[tuple[str, int], str] = {}
    for name, method in methods.items():
        fitted = clone(method)
        start = time.perf_counter()
        fitted.fit(model, calibration, tokenizer=tokenizer)
        seconds = time.perf_counter() - start
        diagnostics = fitted.diagnostics_
        # A search runs on a part of the sequences: its tokens count, in runs on all.
        tokens = calibration.n_sequences * calibration.seq_len
        runs = diagnostics.get("layer_run_tokens", diagnostics["layer_runs"] * tokens) / tokens
        costs[name] = Cost(int(diagnostics["n_evaluated"]), round(runs), seconds)
        if not hasattr(fitted, "removed_layers"):
            for n in numbers:
                narrow = fitted.transform(model, n)
                full_1L = np.ones((1, len(find_layers(narrow))), dtype=bool)
                narrowed += _measured(narrow, held_out, {(name, n): ()}, full_1L, tasks or {}, None)
        elif fitted.n_layers_in_ != n_layers:
            raise ValueError(
                f"{name} chooses among {fitted.n_layers_in_} players, the model has {n_layers} layers; compare sets "
                "methods side by side that remove whole layers (or as many parameters)"
            )
        else:
            for n in numbers:
                try:
                    chosen[name, n] = tuple(fitted.removed_layers(n))
                except ValueError as error:
                    refused[name, n] = str(error)
    unreached = [n for n in numbers if n not in {number for _, number in [*chosen, *_keys(narrowed)]}]
    if unreached:
        reasons = "".join(f"\n  {name}: {reason}" for (name, n), reason in refused.items() if n in unreached)
        raise ValueError(f"no method can remove {unreached} layers of this model:{reasons}")
    masks_ML = np.ones((len(chosen), n_layers), dtype=bool)
    for mask_L, removed in zip(masks_ML, chosen.values()):
        mask_L[list(removed)] = False
    dense, *found = _measured(model, held_out, chosen, masks_ML, tasks or {}, layers)
    by_key = {(choice.method, choice.n_remove): choice for choice in [*found, *narrowed]}
    ordered = [by_key[name, n] for name in methods for n in numbers if (name, n) in by_key]
    return MethodComparison(n_layers, numbers, dense, tuple(ordered), costs)


def _keys(choices: Sequence[Choice]) -> list[tuple[str, int]]:
    return [(choice.method, choice.n_remove) for choice in choices]


def _whole_numbers(n_removes: Any) -> tuple[int, ...]:
    numbers = None if isinstance(n_removes, Integral | str) else tuple(n_removes)
    if numbers is None or any(isinstance(n, bool) or not isinstance(n, Integral) for n in numbers):
        raise TypeError(f"n_removes must be a sequence of ints, such as [2, 4]; got {n_removes!r}")
    return tuple(int(n) for n in numbers)


def _check_kinds(methods: Any, tasks: Any, data: Mapping[str, Any]) -> None:
    """Raise before anything is paid for, unless the arguments of `compare` are of the kinds that it takes."""
    if not isinstance(methods, Mapping):
        raise TypeError(
            f'methods must be a mapping of name to estimator, such as {{"ShortGPT": ShortGPT()}}; got '
            f"{type(methods).__name__}"
        )
    if not isinstance(tasks, Mapping):
        raise TypeError(
            f"tasks must be a mapping of name to f(model) -> float or to (utility, data); got {type(tasks).__name__}"
        )
    columns = {field.name for field in (*fields(Choice), *fields(Cost))} - {"tasks"}
    for name, task in tasks.items():
        if name in columns:
            raise ValueError(f"a task must not be named like a column of to_records ({sorted(columns)}), got {name!r}")
        if isinstance(task, Task):
            raise TypeError(
                f"tasks[{name!r}] must be f(model) -> float or (utility, data), got a Task; give (task.utility, "
                f"task.calibration), or one of its metrics {list(task.metrics)} in place of the utility"
            )
    for argument, value in data.items():
        if isinstance(value, Task):
            raise TypeError(
                f"{argument} must be token sequences or texts, got a Task, whose utility not every method knows; give "
                "task.calibration, and the utility as LayerPruner(utility=task.utility)"
            )


def _measured(
    model: nn.Module,
    held_out: Calibration,
    chosen: Mapping[tuple[str, int], tuple[int, ...]],
    masks_ML: MaskArray,
    tasks: Mapping[str, TaskLike],
    layers: LayersArgument,
) -> list[Choice]:
    """Perplexity and task scores of one mask per choice."""
    with LayerGame(model, held_out, utility=NegativeLogLikelihood(), layers=layers) as game, np.errstate(over="ignore"):
        perplexity_M = np.exp(-game(masks_ML))
    scores: dict[str, FloatArray] = {}
    for name, task in tasks.items():
        # A game wants data even where a callable brings its own.
        utility, data = task if isinstance(task, tuple) else (task, held_out)
        with LayerGame(model, data, utility=utility, layers=layers) as game:
            scores[name] = game(masks_ML)
    return [
        Choice(name, n, removed, float(perplexity_M[m]), {task: float(values[m]) for task, values in scores.items()})
        for m, ((name, n), removed) in enumerate(chosen.items())
    ]


def _number(value: float) -> str:
    if not np.isfinite(value):
        return "-" if np.isnan(value) else "inf"
    return f"{value:.1f}" if 10 <= abs(value) < 10_000 else f"{value:.3g}"

"""What `compare` asks of its arguments, before anything is paid for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Integral
from typing import Any

from layershap.comparison.result import Choice, Cost
from layershap.game.players import GameModel
from layershap.limits import is_int, most_removable
from layershap.tasks import Task
from layershap.tasks.data import refuse_task


def checked_layers(name: str, layers: Any, n: int, n_layers: int) -> tuple[int, ...]:
    """A method's choice of `n` layers, sorted, or an error that says what is wrong with it."""
    found = tuple(layers)
    whole = all(isinstance(layer, Integral) and 0 <= int(layer) < n_layers for layer in found)
    if not whole or len(set(found)) != n or len(found) != n:
        raise ValueError(
            f"{name}.removed_layers({n}) must give {n} different layers in [0, {n_layers}), as ints; got {found}"
        )
    return tuple(sorted(map(int, found)))


def check_numbers(numbers: Sequence[int], whole: GameModel) -> None:
    """Raise before any method is fitted if some number can't be reached by any."""
    kept, n_layers = whole.unremovable, len(whole.players)
    most = most_removable(n_layers - len(kept), n_layers)
    wrong = [n for n in numbers if not 1 <= n <= most]
    if wrong:
        why = f", {len(kept)} of which can't be removed alone" if kept else ""
        raise ValueError(
            f"no method can remove {wrong} layers of this model: numbers must lie in [1, {most}], since one of its "
            f"{n_layers} layers{why} must stay"
        )


def whole_numbers(n_removes: Any) -> tuple[int, ...]:
    """Different numbers of layers, or an error if they are no ints."""
    numbers = None if isinstance(n_removes, Integral | str) else tuple(n_removes)
    if numbers is None or not all(map(is_int, numbers)):
        raise TypeError(f"n_removes must be a sequence of ints, such as [2, 4]; got {n_removes!r}")
    return tuple(dict.fromkeys(int(n) for n in numbers))


def check_kinds(methods: Any, tasks: Any, data: Mapping[str, Any]) -> None:
    """Raise before anything is paid for, unless the arguments of `compare` are of the kinds that it takes."""
    if not isinstance(methods, Mapping):
        raise TypeError(
            f'methods must be a mapping of name to estimator, such as {{"ShortGPT": ShortGPT()}}; got '
            f"{type(methods).__name__}"
        )
    for name, method in methods.items():
        if isinstance(method, type) or not (is_fitted(method) or hasattr(method, "fit")):
            raise TypeError(f"methods[{name!r}] must be an object with fit and removed_layers, got {method!r}")
    if not isinstance(tasks, Mapping):
        raise TypeError(
            f"tasks must be a mapping of name to f(model) -> float or to (utility, data); got {type(tasks).__name__}"
        )
    columns = {field.name for field in (*fields(Choice), *fields(Cost))} - {"tasks"} | {"protocol", "n_sequences"}
    for name, task in tasks.items():
        if name in columns:
            raise ValueError(f"a task must not be named like a column of to_records ({sorted(columns)}), got {name!r}")
        if isinstance(task, Task):
            raise TypeError(
                f"tasks[{name!r}] must be f(model) -> float or (utility, data), got a Task; give (task.utility, "
                f"task.calibration), or one of its metrics {list(task.metrics)} in place of the utility"
            )
    for argument, value in data.items():
        refuse_task(argument, value)
        if isinstance(value, Mapping) and "input_ids" not in value:
            raise TypeError(
                f"{argument} must be one kind of text for compare, got a mapping of {sorted(map(str, value))}; give "
                'others as tasks, {"book": (utility, calibration)}, or measure each model by evaluate(texts={...})'
            )


def is_fitted(method: Any) -> bool:
    """By scikit-learn's rule: `fit` sets attributes that end in an underscore."""
    return any(name.endswith("_") and not name.startswith("_") for name in getattr(method, "__dict__", ()))

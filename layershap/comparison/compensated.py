"""Choices of layers measured as they are after a compensation: the model is pruned for each, one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from layershap.calibration import Calibration
from layershap.comparison.result import Choice, Cost
from layershap.compensation.compensating import Compensating, is_compensation
from layershap.estimator import ModelPruner, kept_compensation
from layershap.exceptions import SurgeryCheckError, UnsupportedModelError
from layershap.game.players import GameModel
from layershap.surgery import remove_players
from layershap.warning import warn_user

Measure = Callable[[GameModel, Mapping[tuple[str, int], tuple[int, ...]]], list[Choice]]
"""Measures a model without the layers of each choice, by (method, n_remove)."""


OnText = tuple[int, int, tuple[int, ...]]
"""A compensation and its text, by their identities, and the layers that go."""


@dataclass(frozen=True)
class Outcome:
    """What a compensation made of some layers' removal: a choice that was measured, or the reason why there is none."""

    choice: Choice | None
    seconds: float
    refusal: str = ""


@dataclass(frozen=True)
class CompensatedMethod:
    """A method's choices under one compensation.

    Attributes
    ----------
    name : str
        What tables show.
    chooser : str
        The method that chooses the layers.
    compensating : Compensating
        What makes up for them, with the text that it is measured on.
    """

    name: str
    chooser: str
    compensating: Compensating

    def measured(
        self,
        whole: GameModel,
        chosen: Mapping[tuple[str, int], tuple[int, ...]],
        measure: Measure,
        cost: Cost,
        done: dict[OnText, Outcome],
    ) -> tuple[list[Choice], Cost]:
        """The choices, measured, and the method's cost with the seconds of the compensation.

        A removal that can't be compensated is left out, with a warning that says why. Layers that several methods chose
        are compensated once, and cost each of these methods the same: `done` keeps what was made.
        """
        found = []
        seconds = 0.0
        for (chooser, n_remove), layers in chosen.items():
            if chooser != self.chooser:
                continue
            key = id(self.compensating.compensation), id(self.compensating.calibration), layers
            if key not in done:
                done[key] = self._outcome(whole, layers, measure, n_remove)
            outcome = done[key]
            seconds += outcome.seconds
            if outcome.choice is None:
                warn_user(f"{self.name} is left out for {n_remove} layers: {outcome.refusal}")
            else:
                found.append(replace(outcome.choice, method=self.name, layers=layers))
        return found, replace(cost, seconds=None if cost.seconds is None else cost.seconds + seconds)

    def _outcome(self, whole: GameModel, layers: tuple[int, ...], measure: Measure, n_remove: int) -> Outcome:
        start = time.perf_counter()
        try:
            pruned = remove_players(whole.model, layers, whole.players, check=False, compensating=self.compensating)
        except (UnsupportedModelError, SurgeryCheckError) as error:
            return Outcome(None, time.perf_counter() - start, str(error))
        seconds = time.perf_counter() - start
        [choice] = measure(GameModel.of(pruned, whole.players.path or None), {(self.name, n_remove): ()})
        return Outcome(choice, seconds)


def own_compensation(name: str, method: Any) -> CompensatedMethod | None:
    """The compensation that a fitted method has itself, under its own name; None if it has none."""
    kept = kept_compensation(method) if isinstance(method, ModelPruner) else None
    return None if kept is None else CompensatedMethod(name, name, kept)


def refuse_early(compensations: Mapping[str, Any], calibration: Calibration, whole: GameModel) -> None:
    """Raise what is wrong with the compensations' parameters, or with the text, before any method is fitted.

    A model that one of them can't serve is no error: its rows are left out, with the reason.
    """
    for compensation in compensations.values():
        try:
            Compensating(compensation, calibration).check(whole.model, whole.players)
        except UnsupportedModelError:
            continue


def check_compensations(compensations: Any, methods: Mapping[str, Any], calibration_given: bool) -> None:
    """Raise before anything is paid for, unless these are compensations by name that `compare` can show."""
    if not isinstance(compensations, Mapping):
        raise TypeError(
            f'compensations must be a mapping of name to compensation, such as {{"refit": LinearRefit()}}; got '
            f"{type(compensations).__name__}"
        )
    for name, compensation in compensations.items():
        if not is_compensation(compensation):
            raise TypeError(
                f"compensations[{name!r}] must be an object with the methods measure and apply, such as LinearRefit(); "
                f"got {compensation!r}"
            )
    names = [*methods, *(f"{method} + {name}" for method in methods for name in compensations)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"two rows would be named {twice[0]!r}; rename the method or the compensation")
    if compensations and not calibration_given:
        raise ValueError("compensations are measured on calib_data, got None")

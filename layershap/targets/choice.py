"""From a target and a curve to the number of layers to remove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from layershap.environment import current_environment
from layershap.exceptions import UnreachableTargetError
from layershap.model.sublayers import Players
from layershap.speed import SpeedRecord
from layershap.tables import megabytes
from layershap.targets.curve import RemovalCurve, RemovalPoint
from layershap.targets.limits import (
    MaxLatency,
    MaxParameters,
    MaxPerplexityIncrease,
    SizeTarget,
    SpeedTarget,
    Target,
)
from layershap.targets.parse import parse_target
from layershap.targets.timing import RemovalSpeed, measure_removals


@dataclass(frozen=True)
class TargetChoice:
    """The removal that meets a target, and what it is expected to cost; ``str()`` says it in a few lines.

    Attributes
    ----------
    target : Target
        What was asked for.
    n_remove : int
        Number of layers to remove.
    reached : float
        What the target limits, of the pruned model: parameters, bytes, seconds, tokens per second, or percent.
    point : RemovalPoint
        Layers, size, score and certainty of the removal.
    speed : RemovalSpeed or None
        What was measured on the way to a target of speed.
    """

    target: Target
    n_remove: int
    reached: float
    point: RemovalPoint
    speed: RemovalSpeed | None = None

    def __str__(self) -> str:
        names = ", ".join(self.point.names)
        return (
            f"target: {self.target}\nremove {self.n_remove} ({names}): {said(self.target, self.reached)}\n"
            f"expected: {self.cost()}"
        )

    def cost(self) -> str:
        """What the removal is expected to cost, in a line: score, size, certainty."""
        return expected_cost(self.point)


def choose_removal(target: Target | str, curve: RemovalCurve, model: nn.Module, players: Players) -> TargetChoice:
    """The removal that meets a target.

    For sizes and speeds it is the smallest number of layers, for a perplexity the largest. Sizes are counted from the
    parameters of `model`. Speeds are measured: the whole model and the largest removal in turns, then, by bisection,
    physically pruned models in between, until one that meets the target is next to one that does not.

    Parameters
    ----------
    target : Target or str
        What to meet; text is read by `parse_target`.
    curve : RemovalCurve
        Points to choose from, with the whole model's.
    model : nn.Module
        The whole model.
    players : LayerStack or SublayerStack
        Its layers, or sublayers.

    Raises
    ------
    UnreachableTargetError
        No removal meets the target; the nearest is named.
    ValueError
        The whole model meets it, or the curve has no scores to read it from.
    """
    wanted = checked_target(target)
    # Sizes are those of the model at hand: it may be another, quantised since, than the one that was fitted.
    sized = curve.with_sizes_of(model, players)
    if isinstance(wanted, MaxPerplexityIncrease):
        return _by_perplexity(wanted, sized)
    if isinstance(wanted, SpeedTarget):
        return _by_speed(wanted, sized, model, players)
    return _by_size(wanted, sized)


def checked_target(target: Any) -> Target:
    """A target as one of the dataclasses.

    Raises
    ------
    TypeError, ValueError
        Neither one of them nor text that means one, or several.
    """
    if isinstance(target, list | tuple | set | frozenset | dict):
        raise TypeError(
            f"one target is possible, got a {type(target).__name__} of {len(target)}. Choose n_remove from the removal "
            "curve (removal_curve_, report.curve()): it has sizes, perplexities and measured speeds"
        )
    return target if isinstance(target, Target) else parse_target(target)


def reason(choice: TargetChoice) -> str:
    """Why so many layers are removed, in a line."""
    extreme = "largest" if isinstance(choice.target, MaxPerplexityIncrease) else "smallest"
    return f"the {extreme} removal that meets the target ({choice.target}): {said(choice.target, choice.reached)}"


def said(target: Target, value: float) -> str:
    """A value of what the target limits, in words."""
    if isinstance(target, MaxPerplexityIncrease):
        return f"perplexity {value:+.3g}%"
    if isinstance(target, MaxLatency):
        return f"{1e3 * value:,.4g} ms, measured"
    if isinstance(target, SpeedTarget):
        return f"{value:,.4g} tokens/s, measured"
    return f"{value:,.0f} {'parameters' if isinstance(target, MaxParameters) else 'bytes'}"


def expected_cost(point: RemovalPoint) -> str:
    """What a removal is expected to cost, in a line."""
    origin = {
        "held back": "on calibration text held back from the choice",
        "searched": "on the calibration text that it was chosen on, which flatters it",
        "predicted": "as the surrogate predicts",
    }.get(point.scored_on, "")
    if point.perplexity_increase is not None:
        quality = f"perplexity {point.perplexity_increase:+.3g}%{_error(point.perplexity_increase_error, '%')} {origin}"
    elif point.score is not None:
        quality = f"score {point.score:.4g}{_error(point.score_error)} {origin}"
    else:
        quality = "unknown: this method scores no sets"
    sure = (
        "" if point.least_sure is None else f"; its least sure layer is removed in {point.least_sure:.0%} of resamples"
    )
    return f"{quality}; {point.n_parameters:,} parameters, {megabytes(point.n_bytes)} are left{sure}"


def _error(error: float | None, unit: str = "") -> str:
    return "" if error is None else f" +/- {error:.2g}{unit}"


def _by_size(target: SizeTarget, curve: RemovalCurve) -> TargetChoice:
    limit = target.n_parameters if isinstance(target, MaxParameters) else target.n_bytes

    def size(point: RemovalPoint) -> int:
        return point.n_parameters if isinstance(target, MaxParameters) else point.n_bytes

    whole, removals = _points(curve)
    if size(whole) <= limit:
        raise _met_already(target, size(whole))
    for point in removals:
        if size(point) <= limit:
            return TargetChoice(target, point.n_remove, size(point), point)
    nearest = min(removals, key=size)
    raise _unreachable(TargetChoice(target, nearest.n_remove, size(nearest), nearest), len(removals))


def _by_perplexity(target: MaxPerplexityIncrease, curve: RemovalCurve) -> TargetChoice:
    _, removals = _points(curve)
    known = [point for point in removals if point.perplexity_increase is not None]
    if not known:
        what = f"this fit's scores are {curve.score_name}" if curve.score_name else "this method scores no sets"
        raise ValueError(
            f"a limit of the perplexity is read from the scores of LayerPruner(utility=PerplexityRatio()), {what}. "
            "Fit with that utility, on the command line with --utility perplexity-ratio (with the ledger of a fit with "
            "NegativeLogLikelihood, no mask is evaluated again)"
        )
    sure = known
    if target.standard_errors:
        sure = [point for point in known if point.perplexity_increase_error is not None]
        if not sure:
            raise ValueError(
                f"standard_errors={target.standard_errors:g} needs scores with errors, and this fit held no text back: "
                "give it 32 sequences or more, or leave standard_errors at 0"
            )

    def bound(point: RemovalPoint) -> float:
        error = point.perplexity_increase_error
        return (point.perplexity_increase or 0.0) + target.standard_errors * (error or 0.0)

    meeting = [point for point in sure if bound(point) <= target.percent]
    if meeting:
        found = meeting[-1]
        return TargetChoice(target, found.n_remove, found.perplexity_increase or 0.0, found)
    nearest = min(sure, key=bound)
    reached = nearest.perplexity_increase or 0.0
    raise _unreachable(TargetChoice(target, nearest.n_remove, reached, nearest), len(removals))


def _by_speed(target: SpeedTarget, curve: RemovalCurve, model: nn.Module, players: Players) -> TargetChoice:
    whole, removals = _points(curve)
    points = [whole, *removals]
    measured: dict[int, SpeedRecord] = {}

    def reading(place: int) -> float:
        value = target.reading(measured[place])
        if value is None:
            raise ValueError(
                f"{target} can't be measured: {type(model).__name__} has no decode speed. Either it can't generate, or "
                "this machine is too loaded for so short a run: raise new_tokens, or give a target of prefill"
            )
        return value

    def meets(place: int) -> bool:
        value = reading(place)
        return value <= target.seconds if isinstance(target, MaxLatency) else value >= target.tokens_per_second

    def measure(*places: int) -> None:
        records = measure_removals(
            model,
            players,
            [points[place].layers for place in places],
            batch_size=target.batch_size,
            prompt_tokens=target.prompt_tokens,
            new_tokens=target.new_tokens,
        )
        measured.update(zip(places, records, strict=True))

    def choice(place: int) -> TargetChoice:
        order = sorted(measured)
        depths = tuple(points[each].n_remove for each in order)
        speed = RemovalSpeed(depths, tuple(measured[each] for each in order), current_environment(model))
        return TargetChoice(target, points[place].n_remove, reading(place), points[place], speed)

    slow, fast = 0, len(points) - 1
    measure(slow, fast)
    if meets(slow):
        raise _met_already(target, reading(slow))
    if not meets(fast):
        raise _unreachable(choice(fast), len(removals))
    while fast - slow > 1:
        middle = (slow + fast) // 2
        measure(middle)
        slow, fast = (slow, middle) if meets(middle) else (middle, fast)
    return choice(fast)


def _points(curve: RemovalCurve) -> tuple[RemovalPoint, Sequence[RemovalPoint]]:
    """The whole model's, and those of removals by ascending number."""
    removals = [point for point in curve.points if point.n_remove]
    if not removals:
        raise ValueError("a target needs a pruner that can remove at least one layer, this one knows no removal")
    return curve.point(0), removals


def _met_already(target: Target, value: float) -> ValueError:
    return ValueError(
        f"the whole model already meets the target ({target}): it has {said(target, value)}. There is nothing to "
        "remove; give a tighter target, or a number of layers"
    )


def _unreachable(nearest: TargetChoice, n_removals: int) -> UnreachableTargetError:
    return UnreachableTargetError(
        f"none of the {n_removals} removals that this fit knows meets the target ({nearest.target}); the nearest is "
        f"n_remove={nearest.n_remove} with {said(nearest.target, nearest.reached)} (expected: {nearest.cost()}). Ask "
        "for what can be reached, or fit with a larger max_remove where the model has more layers to lose",
        nearest,
    )

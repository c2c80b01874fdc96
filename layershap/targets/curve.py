"""What each number of removed layers comes to: score, size, speed, and how sure the choice is.

Shapes: N numbers of removed layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from layershap.model.sublayers import Players
from layershap.tables import MEGABYTE, Cell, Table
from layershap.targets.sizes import size_without
from layershap.targets.timing import RemovalSpeed


@dataclass(frozen=True)
class RemovalPoint:
    """What removing `n_remove` layers comes to.

    Attributes
    ----------
    n_remove : int
        Number of layers removed; 0 for the whole model.
    layers : tuple of int
        Sorted indices of the layers removed.
    names : tuple of str
        Their names: the indices as text, or sublayers' names ("3.mixer").
    n_parameters, n_bytes : int
        Size of the pruned model, shared parameters counted once.
    score, score_error : float or None
        Score of the set on calibration text, before any compensation, and its standard error; None where unknown. That
        of the whole model is on the text that values are estimated on.
    scored_on : str
        Where the score is from.

        - "held back": text that neither the search nor the choice saw (`layershap.LayerPruner`, ``comparisons_``).
        - "searched": the text that the set was chosen on, which flatters it; its error isn't known.
        - "predicted": the surrogate, as the set was not evaluated; the error is that of its held-out predictions.
        - "": there is no score, or the model is whole.
    perplexity_increase, perplexity_increase_error : float or None
        Percent by which the perplexity is higher than the whole model's, and its standard error, where the score is
        `layershap.utilities.PerplexityRatio`.
    least_sure : float or None
        The choice is made again on resampled calibration sequences; the lowest share of resamples in which one of
        `layers` is removed. 1: all resamples choose this set.
    over_greedy, over_greedy_error : float or None
        Lead of the score over greedy removal's set on text held back, and its standard error.
    """

    n_remove: int
    layers: tuple[int, ...]
    names: tuple[str, ...]
    n_parameters: int
    n_bytes: int
    score: float | None = None
    score_error: float | None = None
    scored_on: str = ""
    perplexity_increase: float | None = None
    perplexity_increase_error: float | None = None
    least_sure: float | None = None
    over_greedy: float | None = None
    over_greedy_error: float | None = None


@dataclass(frozen=True)
class RemovalCurve:
    """What every number of removed layers comes to, to choose one from; ``str()`` and notebooks show a table.

    Attributes
    ----------
    points : tuple of RemovalPoint [N + 1]
        By ascending ``n_remove``, the whole model first.
    score_name : str
        Name of the score; empty where there is none.
    player : str
        What is removed: "layer" or "sublayer".
    speed : RemovalSpeed or None
        Prefill and decode at some of the depths; None if not measured.

    See Also
    --------
    layershap.display.RemovalCurveDisplay : The picture.
    """

    points: tuple[RemovalPoint, ...]
    score_name: str = ""
    player: str = "layer"
    speed: RemovalSpeed | None = None

    def point(self, n_remove: int) -> RemovalPoint:
        """The point for `n_remove` layers.

        Raises
        ------
        ValueError
            There is none.
        """
        for point in self.points:
            if point.n_remove == n_remove:
                return point
        raise ValueError(f"n_remove must be one of {[point.n_remove for point in self.points]}, got {n_remove!r}")

    def with_speed(self, speed: RemovalSpeed | None) -> RemovalCurve:
        """Return this curve with the measurements of `speed`; None takes those that it has away."""
        return replace(self, speed=speed)

    def with_sizes_of(self, model: nn.Module, players: Players) -> RemovalCurve:
        """Return this curve with the sizes of `model` (with these `players`), in the precision that it has.

        Nothing is run: a model on the meta device will do.
        """
        sized = []
        for point in self.points:
            n_parameters, n_bytes = size_without(model, players, point.layers)
            sized.append(replace(point, n_parameters=n_parameters, n_bytes=n_bytes))
        return replace(self, points=tuple(sized))

    def table(self) -> Table:
        """All points as a table; columns of which nothing is known are left out."""
        columns: dict[str, list[Cell]] = {
            "removed": [point.n_remove for point in self.points],
            f"{self.player}s": [", ".join(point.names) or None for point in self.points],
            "score": [point.score for point in self.points],
            "+/-": [point.score_error for point in self.points],
            "scored on": [point.scored_on or None for point in self.points],
            "% higher perplexity": [point.perplexity_increase for point in self.points],
            "+/- of that": [point.perplexity_increase_error for point in self.points],
            "least sure": [point.least_sure for point in self.points],
            "over greedy": [point.over_greedy for point in self.points],
            "+/- of the lead": [point.over_greedy_error for point in self.points],
            "parameters": [point.n_parameters for point in self.points],
            "MB": [point.n_bytes / MEGABYTE for point in self.points],
            **self._speed_columns(),
        }
        known = {name: cells for name, cells in columns.items() if any(cell is not None for cell in cells)}
        rows = tuple(zip(*known.values(), strict=True))
        scored = any(point.scored_on for point in self.points)
        by = ", scored by masked models on the calibration text" if scored else ""
        return Table(f"Removing {self.player}s: what each number comes to{by}", tuple(known), rows, self._note())

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table().to_html()

    def _speed_columns(self) -> dict[str, list[Cell]]:
        speed = self.speed
        if speed is None:
            return {}
        counts = [point.n_remove for point in self.points]
        prefill, decode = ([speed.seconds(phase, n) for n in counts] for phase in ("prefill", "decode"))
        return {
            "prefill ms": _milliseconds(prefill),
            "decode ms": _milliseconds(decode),
            "timed": ["measured" if n in speed.depths else "estimated" for n in counts],
        }

    def _note(self) -> str:
        told = []
        if any(point.scored_on for point in self.points):
            told.append(
                f"score: {self.score_name} on calibration text, before any compensation. Scored on held back: of the "
                "choice, on text that it was not made on; searched: on the text it was made on, which flatters it; "
                "predicted: by the surrogate, with the error of its held-out predictions."
            )
        if any(point.least_sure is not None for point in self.points):
            told.append(
                "least sure: how often the least sure of the set is in it when the choice is made again on resampled "
                "text. over greedy: the lead over greedy removal's set on text held back; within two of its errors it "
                "is noise."
            )
        if self.speed is not None:
            told.append(self.speed.note())
        return " ".join(told)


def _milliseconds(seconds: Sequence[float | None]) -> list[Cell]:
    return [None if value is None else 1e3 * value for value in seconds]

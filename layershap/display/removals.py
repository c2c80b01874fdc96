"""What each number of removed layers costs and saves, in one picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layershap.display.axes import BLUE, GREEN, PURPLE, YELLOW, axes_or_new, name_axes, perplexity_ticks
from layershap.escaping import one_line
from layershap.protocols import FloatArray, IntArray
from layershap.targets import RemovalCurve

if TYPE_CHECKING:
    from layershap.fitting.fitted import FittedPruner
    from layershap.report import PruningReport

_UNSURE = 0.5
_UNSURE_LABEL = "... unsure: in under half of resamples"


@dataclass
class RemovalCurveDisplay:
    """What each number of removed layers costs (left axis) and what of the model's size and time it leaves (right).

    Attributes
    ----------
    n_removed : ndarray [N] of int
        Numbers of removed layers, 0 for the whole model.
    quality, quality_errors : ndarray [N]
        Perplexity over the whole model's, or the score where the fit's is another; standard errors, NaN where unknown.
    ylabel : str
        Name of the quality.
    logarithmic : bool
        True draws the quality on a logarithmic axis, as perplexities need.
    least_sure : ndarray [N]
        How often the least sure layer of the set is in it when the choice is made again on resampled text; NaN where
        unknown. Below a half the point is drawn hollow ("unsure").
    left : dict of str to ndarray [N]
        Percent of the whole model's parameters, and seconds where measured or estimated, that are left.
    player : str
        What is removed: "layer" or "sublayer".
    chosen : int or None
        Number of removed layers to mark with a line, as a target or a user chose it.
    ax_, right_ax_, figure_ : matplotlib objects
        Axes and figure, after `plot`.
    """

    n_removed: IntArray
    quality: FloatArray
    quality_errors: FloatArray
    ylabel: str
    logarithmic: bool
    least_sure: FloatArray
    left: dict[str, FloatArray]
    player: str = "layer"
    chosen: int | None = None

    @classmethod
    def from_estimator(cls, pruner: FittedPruner, n_remove: int | None = None) -> RemovalCurveDisplay:
        """Display of a fitted `pruner`; `n_remove`, such as a target's choice, is marked."""
        return cls.from_curve(pruner.removal_curve_, n_remove)

    @classmethod
    def from_report(cls, report: PruningReport, n_remove: int | None = None) -> RemovalCurveDisplay:
        """Display of a `report`, with the speeds of its measured outcomes; `n_remove` is marked."""
        return cls.from_curve(report.curve(), n_remove)

    @classmethod
    def from_curve(cls, curve: RemovalCurve, n_remove: int | None = None) -> RemovalCurveDisplay:
        """Display of a `curve`; `n_remove` is marked.

        Raises
        ------
        ValueError
            The curve has no scores, or no point for `n_remove`.
        """
        if n_remove is not None:
            curve.point(n_remove)
        points = curve.points
        if all(point.score is None for point in points):
            raise ValueError(
                "a picture needs a curve with scores, as LayerPruner's removal_curve_ has; got one without"
            )
        increase, increase_errors = (
            _array(getattr(point, name) for point in points)
            for name in ("perplexity_increase", "perplexity_increase_error")
        )
        is_perplexity = bool(np.isfinite(increase).any())
        left = {"parameters": 100 * _array(point.n_parameters for point in points) / points[0].n_parameters}
        if curve.speed is not None:
            for phase in ("prefill", "decode"):
                seconds = _array(curve.speed.seconds(phase, point.n_remove) for point in points)
                if np.isfinite(seconds).any():
                    left[f"{phase} time, batch {curve.speed.records[0].batch_size}"] = 100 * seconds / seconds[0]
        return cls(
            n_removed=np.array([point.n_remove for point in points]),
            quality=1 + increase / 100 if is_perplexity else _array(point.score for point in points),
            quality_errors=increase_errors / 100 if is_perplexity else _array(point.score_error for point in points),
            ylabel="perplexity / whole model's\nof masked models on the calibration text"
            if is_perplexity
            else f"{one_line(curve.score_name)}\nof masked models on the calibration text",
            logarithmic=is_perplexity,
            least_sure=_array(point.least_sure for point in points),
            left=left,
            player=curve.player,
            chosen=n_remove,
        )

    def plot(self, ax: Any = None) -> RemovalCurveDisplay:
        """Draw the curves; error bars are one standard error to either side.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to draw on, which get a second axis on the right. By default those of a new figure.

        Returns
        -------
        RemovalCurveDisplay
            This display, with ``ax_``, ``right_ax_`` and ``figure_`` set.
        """
        ax = axes_or_new(ax)
        right = ax.twinx()
        for (name, percent), colour in zip(self.left.items(), (GREEN, PURPLE, YELLOW), strict=False):
            right.plot(self.n_removed, percent, "--", color=colour, linewidth=1, label=f"{name} left")
        if self.chosen is not None:
            mark = {"color": "black", "linewidth": 0.8, "linestyle": ":", "zorder": 1}
            ax.axvline(self.chosen, label=f"{self.chosen} {self.player}s removed", **mark)
        known = np.isfinite(self.quality)
        # Within a logarithmic axis an error bar must end above 0.
        low = np.nan_to_num(np.minimum(self.quality_errors, 0.99 * np.abs(self.quality)))
        bars = np.stack([low, np.nan_to_num(self.quality_errors)])
        ax.errorbar(self.n_removed[known], self.quality[known], bars[:, known], color=BLUE, capsize=2, zorder=3)
        unsure = np.nan_to_num(self.least_sure, nan=1.0) < _UNSURE
        for which, face, label in ((known & ~unsure, BLUE, "set chosen"), (known & unsure, "white", _UNSURE_LABEL)):
            if which.any():
                ax.plot(self.n_removed[which], self.quality[which], "o", color=BLUE, mfc=face, label=label, zorder=4)
        if self.logarithmic:
            perplexity_ticks(ax, self.quality[known].min(), self.quality[known].max(), always=1.0)
        name_axes(ax, f"{self.player}s removed", self.ylabel, "Which number to remove")
        ax.xaxis.get_major_locator().set_params(integer=True)
        right.set_ylabel("% of the whole model")
        right.set_ylim(0, 105)
        handles = [axes.get_legend_handles_labels() for axes in (ax, right)]
        # The quality rises or falls from the left, and what is left begins at 100: the lower right corner is freest.
        right.legend(handles[0][0] + handles[1][0], handles[0][1] + handles[1][1], fontsize="small", loc="lower right")
        self.ax_, self.right_ax_, self.figure_ = ax, right, ax.figure
        return self


def _array(values: Any) -> FloatArray:
    """Numbers, NaN where there is none; infinite ones can't be drawn."""
    found = np.array([np.nan if value is None else value for value in values], dtype=float)
    return np.where(np.isfinite(found), found, np.nan)

"""The surrogate's predictions against measured scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layershap.display.axes import axes_or_new
from layershap.protocols import FloatArray, IntArray

if TYPE_CHECKING:
    from layershap.fitting.fitted import FittedPruner
    from layershap.report import PruningReport


@dataclass
class SurrogateDisplay:
    """Scatter of predicted against measured scores of masks that the surrogate was not fitted on.

    Attributes
    ----------
    scores, predictions : ndarray [M]
        Measured scores, and predictions of the folds that had not seen the mask.
    n_removed : ndarray [M] of int
        Number of layers removed in each mask, drawn as the colour.
    r2 : float
        Held-out R2.
    ax_, figure_ : matplotlib objects
        Axes and figure, after `plot`.
    """

    scores: FloatArray
    predictions: FloatArray
    n_removed: IntArray
    r2: float

    @classmethod
    def from_estimator(cls, pruner: FittedPruner) -> SurrogateDisplay:
        """Display of a fitted `pruner`."""
        return cls.from_report(pruner.report_)

    @classmethod
    def from_report(cls, report: PruningReport) -> SurrogateDisplay:
        """Display of a `report`."""
        found = report.surrogate
        return cls(np.array(found.scores), np.array(found.predictions), np.array(found.n_removed), found.held_out_r2)

    def plot(self, ax: Any = None) -> SurrogateDisplay:
        """Draw one point per mask.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to draw on. By default those of a new figure.

        Returns
        -------
        SurrogateDisplay
            This display, with ``ax_`` and ``figure_`` set.
        """
        ax = axes_or_new(ax, width=5.2, height=4.2)
        finite = np.isfinite(self.scores) & np.isfinite(self.predictions)
        scores, predictions = self.scores[finite], self.predictions[finite]
        if len(scores):
            ends = [min(scores.min(), predictions.min()), max(scores.max(), predictions.max())]
            ax.plot(ends, ends, color="black", linewidth=0.8, linestyle="--", zorder=1)
        points = ax.scatter(scores, predictions, c=self.n_removed[finite], cmap="viridis_r", s=14, zorder=2)
        bar = ax.figure.colorbar(points, ax=ax, label="layers removed")
        sizes = np.unique(self.n_removed[finite])
        if len(sizes) == 1:
            # Of a single number the colour bar would make a range around it.
            bar.set_ticks([float(sizes[0])], labels=[str(sizes[0])])
        else:
            bar.locator.set_params(integer=True)
        ax.set(
            xlabel="measured score",
            ylabel="predicted, held out",
            title=f"Surrogate: held-out $R^2$ = {self.r2:.3f}",
        )
        self.ax_, self.figure_ = ax, ax.figure
        return self

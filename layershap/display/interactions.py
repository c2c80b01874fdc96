"""Pairwise interactions of layers as a heatmap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layershap.display.axes import axes_or_new
from layershap.protocols import FloatArray

if TYPE_CHECKING:
    from layershap.fitting.fitted import FittedPruner
    from layershap.report import PruningReport


@dataclass
class InteractionDisplay:
    """Heatmap of how the removal of one layer changes the cost of removing another.

    Attributes
    ----------
    interactions : ndarray [L, L]
        Interactions, symmetric; NaN on the diagonal and for protected layers. Negative: removing both layers costs more
        than the sum of the two removals. Positive: it costs less, as the two do the same work.
    player : str
        Kind of the rows: "layer" or "sublayer".
    ax_, figure_ : matplotlib objects
        Axes and figure, after `plot`.
    """

    interactions: FloatArray
    player: str = "layer"

    @classmethod
    def from_estimator(cls, pruner: FittedPruner) -> InteractionDisplay:
        """Display of a `pruner` that was fitted with a surrogate that has interactions (`HammingProcess`,
        `PairwiseRidge`).
        """
        return cls.from_report(pruner.report_)

    @classmethod
    def from_report(cls, report: PruningReport) -> InteractionDisplay:
        """Display of a `report`.

        Raises
        ------
        ValueError
            The fit's surrogate has no interactions.
        """
        if report.surrogate.interactions is None:
            raise ValueError(
                f"interactions need a surrogate that has them, such as HammingProcess; the fit's was "
                f"{report.surrogate.name}"
            )
        players = np.flatnonzero([layer.removable for layer in report.layers])
        full = np.full((len(report.layers), len(report.layers)), np.nan)
        full[np.ix_(players, players)] = report.surrogate.interactions
        np.fill_diagonal(full, np.nan)
        return cls(full, report.fit.granularity)

    def plot(self, ax: Any = None) -> InteractionDisplay:
        """Draw the heatmap, its colours symmetric about 0.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to draw on. By default those of a new figure.

        Returns
        -------
        InteractionDisplay
            This display, with ``ax_`` and ``figure_`` set.
        """
        ax = axes_or_new(ax, width=5.2, height=4.4)
        # The few pairs that ruin the model would leave all others white: the scale ends at the 95th percentile.
        known = np.abs(self.interactions[np.isfinite(self.interactions)])
        limit = float(np.quantile(known, 0.95)) if known.size and known.any() else 1.0
        image = ax.imshow(self.interactions, cmap="RdBu", vmin=-limit, vmax=limit)
        ax.figure.colorbar(image, ax=ax, label="interaction of two removals", extend="both")
        ax.set(xlabel=self.player, ylabel=self.player, title="Pairwise interactions")
        ax.set_facecolor("#DDDDDD")
        self.ax_, self.figure_ = ax, ax.figure
        return self

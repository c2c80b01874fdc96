"""The layers' values with error bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layershap.display.axes import AS_WRITTEN, BLUE, PURPLE, RED, add_legend, axes_or_new, name_axes
from layershap.escaping import one_line
from layershap.protocols import FloatArray, MaskArray

if TYPE_CHECKING:
    from layershap.fitting.fitted import FittedPruner
    from layershap.report import PruningReport


@dataclass
class ContributionDisplay:
    """Bars of the layers' values.

    Attributes
    ----------
    contributions, standard_errors : ndarray [L]
        Values and their standard errors; NaN for protected layers, and for veto players of unknown value.
    removed : ndarray [L] of bool
        Layers drawn as removed.
    names : tuple of str
        Names of the layers, or of the sublayers.
    score_name : str
        Name of the score that the values are parts of.
    in_doubt : ndarray [L] of bool, optional
        Layers whose value contradicts their leave-one-out, marked with a question mark.
    veto : ndarray [L] of bool, optional
        Layers without which the model is lost, drawn in a colour of their own; of unknown value with a plus.
    ax_, figure_ : matplotlib objects
        Axes and figure, after `plot`.
    """

    contributions: FloatArray
    standard_errors: FloatArray
    removed: MaskArray
    names: tuple[str, ...]
    score_name: str = "the score"
    in_doubt: MaskArray | None = None
    veto: MaskArray | None = None

    @classmethod
    def from_estimator(cls, pruner: FittedPruner, n_remove: int | None = None) -> ContributionDisplay:
        """Display of a fitted `pruner`; the layers that it would remove for `n_remove` are marked."""
        return cls.from_report(pruner.report_, n_remove)

    @classmethod
    def from_report(cls, report: PruningReport, n_remove: int | None = None) -> ContributionDisplay:
        """Display of a `report`; the layers that it removes for `n_remove` are marked."""
        removed = np.zeros(len(report.layers), dtype=bool)
        if n_remove is not None:
            removed[list(report.removal(n_remove).layers)] = True
        return cls(
            np.array([layer.contribution for layer in report.layers], dtype=np.float64),
            np.array([layer.standard_error for layer in report.layers], dtype=np.float64),
            removed,
            tuple(layer.name for layer in report.layers),
            report.fit.utility,
            np.array([layer.remark == "in doubt" for layer in report.layers], dtype=bool),
            np.array([layer.remark == "veto player" for layer in report.layers], dtype=bool),
        )

    def plot(self, ax: Any = None) -> ContributionDisplay:
        """Draw bars with one standard error to either side, and a mark below each layer that is removed.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to draw on. By default those of a new figure.

        Returns
        -------
        ContributionDisplay
            This display, with ``ax_`` and ``figure_`` set.
        """
        n_layers = len(self.contributions)
        plain = self.names == tuple(map(str, range(n_layers)))
        ax = axes_or_new(ax, width=min(14.0, 3.0 + 0.25 * n_layers))
        bar_style = {"capsize": 2, "error_kw": {"elinewidth": 1}}
        veto = np.zeros(n_layers, dtype=bool) if self.veto is None else self.veto
        kinds = (
            (~self.removed & ~veto, BLUE, "kept"),
            (~self.removed & veto, PURPLE, "veto player: the model is lost without it"),
            (self.removed, RED, "removed"),
        )
        for which, colour, label in kinds:
            layers = np.flatnonzero(which & np.isfinite(self.contributions))
            if len(layers):
                values, errors = self.contributions[layers], self.standard_errors[layers]
                ax.bar(layers, values, yerr=errors, color=colour, label=label, **bar_style)
        # A bar near zero shows no colour: a mark on the lower edge does.
        gone = np.flatnonzero(self.removed)
        if len(gone):
            edge = ax.get_xaxis_transform()
            ax.plot(gone, np.full(len(gone), 0.02), "^", color=RED, transform=edge, clip_on=False, zorder=3)
        for layer in np.flatnonzero(np.zeros(n_layers) if self.in_doubt is None else self.in_doubt):
            ax.annotate("?", (layer, max(self.contributions[layer], 0.0)), ha="center", va="bottom", weight="bold")
        unknown = ~np.isfinite(self.contributions)
        for which, marker, label in (
            (unknown & ~veto, "x", "protected"),
            (unknown & veto, "+", "veto player of unknown value"),
        ):
            layers = np.flatnonzero(which)
            if len(layers):
                ax.plot(layers, np.zeros(len(layers)), marker, color="black", label=label, linestyle="", clip_on=False)
        ax.axhline(0, color="black", linewidth=0.8)
        player = "layer" if plain else "sublayer"
        name_axes(ax, player, f"contribution to\n{one_line(self.score_name)}", f"What each {player} is worth")
        if plain:
            ax.xaxis.get_major_locator().set_params(integer=True)
        else:
            names = [one_line(name) for name in self.names]
            ax.set_xticks(range(n_layers), names, rotation=90, fontsize="small", **AS_WRITTEN)
        if self.removed.any() or veto.any() or unknown.any():
            add_legend(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self

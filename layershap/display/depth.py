"""Score against the number of removed layers, with baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layershap.display.axes import CYCLE, MARKERS, add_legend, axes_or_new, name_axes, perplexity_ticks
from layershap.escaping import one_line
from layershap.protocols import FloatArray, IntArray
from layershap.utilities.naming import score_name

if TYPE_CHECKING:
    from layershap.comparison import MethodComparison
    from layershap.fitting.fitted import FittedPruner
    from layershap.game import LayerGame
    from layershap.report import PruningReport


@dataclass
class DepthCurveDisplay:
    """Curves of a score against the number of removed layers, one curve per method.

    Attributes
    ----------
    n_removed : ndarray [N] of int
        Numbers of removed layers, 0 for the model with all of them.
    curves : dict of str to ndarray [N]
        Figure of each method at each number of removed layers; NaN where there is none.
    ylabel : str
        Name of the figure, with its protocol.
    logarithmic : bool
        True draws the figure on a logarithmic axis, as perplexities need.
    ax_, figure_ : matplotlib objects
        Axes and figure, after `plot`.
    """

    n_removed: IntArray
    curves: dict[str, FloatArray]
    ylabel: str = "score"
    logarithmic: bool = False

    @classmethod
    def from_estimator(
        cls, pruner: FittedPruner, game: LayerGame | None = None, baselines: Mapping[str, Any] | None = None
    ) -> DepthCurveDisplay:
        """Display of a fitted pruner.

        Parameters
        ----------
        pruner : LayerPruner
            Fitted pruner.
        game : LayerGame, optional
            Game that scores the removal sets of the pruner and of the baselines, usually on held-out text. Without it
            the curves are those of the report: the scores on the calibration text.
        baselines : mapping of str to estimator, optional
            Fitted estimators with ``removed_layers(n_remove)``, by name.

        Raises
        ------
        ValueError
            Baselines without a game to score them.
        """
        if game is None:
            if baselines:
                raise ValueError(
                    "baselines need a game that scores their removal sets: from_estimator(pruner, game, ...)"
                )
            return cls.from_report(pruner.report_)
        counts = [removal.n_remove for removal in pruner.report_.removals]
        methods = {"layershap": pruner, **(baselines or {})}
        masks = np.ones((len(methods), len(counts) + 1, pruner.n_layers_in_), dtype=bool)
        for m, method in enumerate(methods.values()):
            for n, count in enumerate(counts, start=1):
                masks[m, n, list(method.removed_layers(count))] = False
        scores = np.asarray(game(masks.reshape(-1, masks.shape[-1]))).reshape(masks.shape[:2])
        curves = {name: scores[m] for m, name in enumerate(methods)}
        return cls(np.array([0, *counts]), curves, score_name(game.utility))

    @classmethod
    def from_comparison(
        cls, comparison: MethodComparison, task: str | None = None, ylabel: str | None = None
    ) -> DepthCurveDisplay:
        """Display of a `layershap.compare` result: perplexities, or the scores of a task, of every method.

        Parameters
        ----------
        comparison : MethodComparison
            Figures of the methods.
        task : str, optional
            Name of a task. By default the figure is the perplexity, on a logarithmic axis.
        ylabel : str, optional
            Name of the figure. By default it holds the protocol and the number of sequences.
        """
        whole = comparison.whole(task)
        order = np.argsort(comparison.n_removes)
        curves = {
            method: np.array([whole, *np.array(comparison.curve(method, task))[order]]) for method in comparison.costs
        }
        counts = np.array([0, *np.array(comparison.n_removes)[order]])
        return cls(counts, curves, ylabel or comparison.figure(task), logarithmic=task is None)

    @classmethod
    def from_report(cls, report: PruningReport) -> DepthCurveDisplay:
        """Display of a `report`: predicted scores, and measured ones where the sets were evaluated, on calibration
        text.
        """
        counts = np.array([0, *[removal.n_remove for removal in report.removals]])
        dense = report.fit.baseline_score
        measured = [np.nan if removal.score is None else removal.score for removal in report.removals]
        curves = {"predicted by the surrogate": np.array([dense, *[r.predicted_score for r in report.removals]])}
        if np.isfinite(measured).any():
            curves = {"measured": np.array([dense, *measured])} | curves
        return cls(counts, curves, f"{one_line(report.fit.utility)}\non the calibration text")

    def plot(self, ax: Any = None) -> DepthCurveDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to draw on. By default those of a new figure.

        Returns
        -------
        DepthCurveDisplay
            This display, with ``ax_`` and ``figure_`` set.
        """
        ax = axes_or_new(ax)
        for i, (name, values) in enumerate(self.curves.items()):
            known = np.isfinite(values)
            style = {"marker": MARKERS[i % len(MARKERS)], "color": CYCLE[i % len(CYCLE)], "markersize": 4}
            # The first curve is the one that the others are compared with: whole, and on top.
            line, order = ("-", 3) if i == 0 else ("--", 2)
            ax.plot(self.n_removed[known], values[known], label=one_line(name), linestyle=line, zorder=order, **style)
        if self.logarithmic:
            values = np.concatenate([*self.curves.values()])
            perplexity_ticks(ax, np.nanmin(values), np.nanmax(values))
        name_axes(ax, "layers removed", self.ylabel, "What removing layers costs")
        ax.xaxis.get_major_locator().set_params(integer=True)
        if len(self.curves) > 1:
            add_legend(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self

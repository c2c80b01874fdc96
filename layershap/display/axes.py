"""What all displays share: axes to draw on, and the colours (Paul Tol's bright scheme, safe for colour-blind eyes)."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from layershap.escaping import one_line
from layershap.extras import require

BLUE, RED, GREEN, YELLOW, CYAN, PURPLE, GREY = (
    "#4477AA",
    "#EE6677",
    "#228833",
    "#CCBB44",
    "#66CCEE",
    "#AA3377",
    "#BBBBBB",
)
CYCLE = (BLUE, RED, GREEN, PURPLE, YELLOW, CYAN, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


_LABEL_LENGTH = 40
"""Characters that fit beside the axes of a new figure."""

AS_WRITTEN = {"parse_math": False, "usetex": False}
"""Properties of every Text whose words come from elsewhere: a dollar sign in a name begins no formula."""


def name_axes(ax: Any, xlabel: str, ylabel: str, title: str) -> None:
    """Set the labels of the axes as they are written.

    A line break in `ylabel` stays; lines longer than the axes are high are broken, as no layout makes room for them.
    """
    ax.set_xlabel(one_line(xlabel), **AS_WRITTEN)
    ax.set_ylabel("\n".join(part for line in ylabel.split("\n") for part in _broken(one_line(line))), **AS_WRITTEN)
    ax.set_title(title)


def _broken(line: str) -> list[str]:
    return textwrap.wrap(line, _LABEL_LENGTH, break_long_words=False) or [""]


def add_legend(ax: Any) -> None:
    """A legend with the names as they are written."""
    for text in ax.legend().get_texts():
        text.set(**AS_WRITTEN)


def perplexity_ticks(ax: Any, lowest: float, highest: float, always: float | None = None) -> None:
    """A logarithmic y axis with plain numbers at round places.

    Parameters
    ----------
    ax : matplotlib Axes
        Axes with the curves drawn.
    lowest, highest : float
        Least and greatest value drawn.
    always : float, optional
        A value that gets a tick in any case: what the others are compared with.
    """
    ticker = require("matplotlib.ticker", "layershap[plot]", "a plot")
    ax.set_yscale("log")
    within_a_decade = highest < 10 * lowest
    locator = ticker.MaxNLocator(6) if within_a_decade else ticker.LogLocator(subs=(1.0, 2.0, 5.0))
    ax.yaxis.set_major_locator(locator)
    if always is not None:
        bottom, top = ax.get_ylim()
        ticks = [tick for tick in locator.tick_values(bottom, top) if bottom <= tick <= top]
        # Two numbers at one place can't be read.
        apart = [tick for tick in ticks if abs(math.log(tick / always)) > 0.04 * math.log(top / bottom)]
        ax.yaxis.set_major_locator(ticker.FixedLocator(sorted([always, *apart])))
        ax.set_ylim(bottom, top)
    ax.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(ticker.NullFormatter())


def axes_or_new(ax: Any, width: float = 6.0, height: float = 3.8) -> Any:
    """The axes given, or those of a new figure of this size in inches.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    if ax is not None:
        return ax
    pyplot = require("matplotlib.pyplot", "layershap[plot]", "a plot")
    return pyplot.subplots(figsize=(width, height), layout="constrained")[1]

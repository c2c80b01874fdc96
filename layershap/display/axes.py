"""What all displays share: axes to draw on, and the colours (Paul Tol's bright scheme, safe for colour-blind eyes)."""

from __future__ import annotations

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


AS_WRITTEN = {"parse_math": False, "usetex": False}
"""Properties of every Text whose words come from elsewhere: a dollar sign in a name begins no formula."""


def name_axes(ax: Any, xlabel: str, ylabel: str, title: str) -> None:
    """Set the labels of the axes as they are written; a line break in `ylabel` stays."""
    ax.set_xlabel(one_line(xlabel), **AS_WRITTEN)
    ax.set_ylabel("\n".join(map(one_line, ylabel.split("\n"))), **AS_WRITTEN)
    ax.set_title(title)


def add_legend(ax: Any) -> None:
    """A legend with the names as they are written."""
    for text in ax.legend().get_texts():
        text.set(**AS_WRITTEN)


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

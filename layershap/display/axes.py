"""What all displays share: axes to draw on, and the colours (Paul Tol's bright scheme, safe for colour-blind eyes)."""

from __future__ import annotations

from typing import Any

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

"""A report as one HTML file: tables and pictures, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from layershap.escaping import html_text
from layershap.report.words import named

if TYPE_CHECKING:
    from layershap.report.report import PruningReport

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1.5rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; vertical-align: top; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; } details { margin: 1rem 0; }
"""


def page(report: PruningReport, n_remove: int | None = None) -> str:
    """The HTML page.

    Parameters
    ----------
    report : PruningReport
        Any.
    n_remove : int, optional
        Whose layers the pictures mark; by default those of the last measured outcome.
    """
    tables = "\n".join(table.to_html() for table in (report.curve().table(), *report.tables().values()))
    figures = "\n".join(
        f'<figure><img alt="{html_text(title)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></figure>'
        for title, png in pictures(report, n_remove).items()
    )
    settings = "".join(f"<li><code>{html_text(k)}={html_text(v)}</code></li>" for k, v in report.fit.settings.items())
    doubts = "".join(f"<p>Doubt: {html_text(doubt)}</p>\n" for doubt in report.doubts)
    title = html_text(f"Layer pruning of {named(report.fit)}")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{title}</h1>\n{doubts}{figures}\n{tables}\n"
        f"<details><summary>Settings of the fit</summary><ul>{settings}</ul></details></body></html>\n"
    )


def pictures(report: PruningReport, n_remove: int | None = None, dpi: int = 110) -> dict[str, bytes]:
    """The report's pictures as PNG, by name; none without matplotlib."""
    if find_spec("matplotlib") is None:
        return {}
    from matplotlib.figure import Figure

    from layershap.display import (
        ContributionDisplay,
        DepthCurveDisplay,
        InteractionDisplay,
        RemovalCurveDisplay,
        SurrogateDisplay,
    )

    if n_remove is None and report.outcomes:
        measured = report.outcomes[-1].removed
        n_remove = next((removal.n_remove for removal in report.removals if removal.layers == measured), None)
    known = n_remove in [removal.n_remove for removal in report.removals]
    displays: dict[str, Any] = {
        "curve": RemovalCurveDisplay.from_report(report, n_remove if known else None),
        "contributions": ContributionDisplay.from_report(report, n_remove if known else None),
        "depth": DepthCurveDisplay.from_report(report),
        "surrogate": SurrogateDisplay.from_report(report),
    }
    if report.surrogate.interactions is not None:
        displays["interactions"] = InteractionDisplay.from_report(report)
    found = {}
    for name, display in displays.items():
        # A Figure of its own, not pyplot's: nothing is registered, shown or left open in a notebook.
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        display.plot(figure.subplots())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi)
        found[name] = buffer.getvalue()
    return found

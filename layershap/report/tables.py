"""`Table`: a title, columns and rows of plain values; as text, Markdown, HTML or a pandas DataFrame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

from layershap.extras import require

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """A small table. ``str()`` gives aligned plain text, notebooks show HTML.

    Attributes
    ----------
    title : str
        What the table shows, with the protocol or unit where figures need one.
    columns : tuple of str
        Headings.
    rows : tuple of tuple
        Cells: text, numbers as they were measured, None where there is nothing to show.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __str__(self) -> str:
        cells = [self.columns, *[tuple(format_cell(cell) for cell in row) for row in self.rows]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        right = self._numeric()
        lines = [
            "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
            for row in cells
        ]
        return "\n".join([self.title, lines[0], "  ".join("-" * width for width in widths), *lines[1:]])

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_html(self) -> str:
        """An HTML table, everything escaped."""
        right = self._numeric()
        style = [' style="text-align:right"' if r else ' style="text-align:left"' for r in right]
        head = "".join(f"<th{s}>{escape(c)}</th>" for c, s in zip(self.columns, style, strict=True))
        body = "".join(
            "<tr>" + "".join(f"<td{s}>{escape(format_cell(c))}</td>" for c, s in zip(row, style, strict=True)) + "</tr>"
            for row in self.rows
        )
        caption = f"<caption>{escape(self.title)}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def to_markdown(self) -> str:
        """A Markdown table, without the title."""
        rule = ["--:" if r else ":--" for r in self._numeric()]
        rows = [self.columns, rule, *[[format_cell(cell).replace("|", "\\|") for cell in row] for row in self.rows]]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)

    def to_frame(self) -> Any:
        """A pandas DataFrame with the unrounded values.

        Raises
        ------
        MissingExtraError
            pandas is not installed.
        """
        return require("pandas", "pandas", "Table.to_frame").DataFrame(list(self.rows), columns=list(self.columns))

    def _numeric(self) -> list[bool]:
        """Which columns hold only numbers: those are aligned to the right."""
        return [
            all(row[i] is None or isinstance(row[i], int | float) for row in self.rows) and bool(self.rows)
            for i in range(len(self.columns))
        ]


def format_cell(cell: Cell) -> str:
    """Four significant digits for floats, thousands separated for ints, "-" for nothing."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.1f}" if 1000 <= abs(cell) < 1e7 else f"{cell:.4g}"
    return cell

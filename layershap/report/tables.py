"""`Table`: a title, columns and rows of plain values; as text, Markdown, HTML or a pandas DataFrame."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import Any

from layershap.escaping import html_text, markdown_text, one_line
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
    note : str
        What the columns mean, where their headings don't say it; shown below the table.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __str__(self) -> str:
        cells = [tuple(map(one_line, self.columns)), *[tuple(format_cell(cell) for cell in row) for row in self.rows]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        right = self._numeric()
        lines = [
            "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
            for row in cells
        ]
        rule = "  ".join("-" * width for width in widths)
        note = textwrap.wrap(one_line(self.note), max(80, len(rule)))
        return "\n".join([one_line(self.title), lines[0], rule, *lines[1:], *note])

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_html(self) -> str:
        """An HTML table, everything escaped."""
        right = self._numeric()
        style = [' style="text-align:right"' if r else ' style="text-align:left"' for r in right]
        head = "".join(f"<th{s}>{html_text(c)}</th>" for c, s in zip(self.columns, style, strict=True))
        body = "".join(
            "<tr>" + "".join(f"<td{s}>{html_text(c)}</td>" for c, s in zip(row, style, strict=True)) + "</tr>"
            for row in (map(format_cell, cells) for cells in self.rows)
        )
        caption = f"<caption>{html_text(self.title)}</caption>"
        note = f"<p><small>{html_text(self.note)}</small></p>" if self.note else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"

    def to_markdown(self) -> str:
        """A Markdown table, everything escaped, without the title."""
        rule = ["--:" if r else ":--" for r in self._numeric()]
        rows = [[markdown_text(format_cell(cell)) for cell in row] for row in (self.columns, *self.rows)]
        table = "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))
        return f"{table}\n\n{markdown_text(self.note)}" if self.note else table

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
    """Four significant digits for floats, thousands separated for ints, text on one line, "-" for nothing."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.1f}" if 1000 <= abs(cell) < 1e7 else f"{cell:.4g}"
    return one_line(cell)

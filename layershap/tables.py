"""Tables as text, Markdown, HTML or a pandas DataFrame: `Table`, of plain values, and what lays out its cells."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layershap.escaping import html_text, markdown_text, one_line
from layershap.extras import require

Cell = str | int | float | None

MEGABYTE = 1e6
"""Bytes in an MB of tables and targets; an MiB is 2**20."""


@dataclass(frozen=True)
class Table:
    """A small table: ``str()`` gives aligned plain text, notebooks show HTML.

    Attributes
    ----------
    title : str
        Title of the table, with the protocol or unit where figures need one.
    columns : tuple of str
        Headings.
    rows : tuple of tuple
        Cells: text, numbers as they were measured, None where there is nothing to show.
    note : str
        Meaning of the columns, where their headings don't tell it; shown below the table.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __str__(self) -> str:
        cells = [tuple(map(one_line, self.columns)), *[tuple(format_cell(cell) for cell in row) for row in self.rows]]
        lines = aligned(cells, self._numeric())
        rule = "  ".join("-" * max(len(row[i]) for row in cells) for i in range(len(self.columns)))
        note = textwrap.wrap(one_line(self.note), max(80, len(rule)))
        return "\n".join([one_line(self.title), lines[0], rule, *lines[1:], *note])

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_html(self) -> str:
        """An HTML table, everything escaped."""
        rows = [[format_cell(cell) for cell in row] for row in self.rows]
        note = f"<p><small>{html_text(self.note)}</small></p>" if self.note else ""
        return html_table(self.columns, rows, self._numeric(), self.title) + note

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


def megabytes(n_bytes: int) -> str:
    """Bytes for people, by 1,000 as in a target: ``bytes<=220MB``.

    Examples
    --------
    >>> megabytes(219_466_752)
    '219.5 MB'
    """
    return f"{n_bytes / MEGABYTE:,.1f} MB"


def aligned(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Rows of cells as lines of plain text, each column as wide as its widest cell.

    Parameters
    ----------
    rows : sequence of sequences of str
        The headings among them, if there are any.
    right : sequence of bool
        Whether each column is aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in rows
    ]


def html_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool] | None = None, title: str = ""
) -> str:
    """An HTML table of text cells, everything escaped.

    Parameters
    ----------
    columns : sequence of str
        Headings.
    rows : sequence of sequences of str
        Cells.
    right : sequence of bool, optional
        Whether each column is aligned to the right. By default the page decides.
    title : str, default=''
        The caption.
    """
    style = [""] * len(columns) if right is None else [f' style="text-align:{"right" if r else "left"}"' for r in right]
    caption = f"<caption>{html_text(title)}</caption>" if title else ""
    head = "".join(f"<th{s}>{html_text(c)}</th>" for c, s in zip(columns, style, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{s}>{html_text(c)}</td>" for c, s in zip(row, style, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def html_fields(title: str, fields: Mapping[str, object]) -> str:
    """An HTML table of one line for each field, its name before its value, everything escaped."""
    lines = "".join(
        f"<tr><th>{html_text(name)}</th><td>{html_text(str(value))}</td></tr>" for name, value in fields.items()
    )
    return f"<table><caption>{html_text(title)}</caption>{lines}</table>"


def html_lines(text: str) -> str:
    """Lines of text as HTML paragraphs, everything escaped."""
    return "".join(f"<p>{html_text(line)}</p>" for line in text.splitlines())

"""The boards as tables of `docs/leaderboard.md`."""

from __future__ import annotations

import math

from benchmarks.common import markdown
from benchmarks.leaderboard.board import Board, Entry, figure
from benchmarks.leaderboard.games import GAMES, NAMES, read_game, shapiq_data
from benchmarks.real_model.tables import number

MEASURES = 3
"""Texts shown of each model; the others are in its file."""


def page(boards: list[Board]) -> str:
    """A section for each model, then the games."""
    return "\n\n".join([*(section(board) for board in boards), games_section()])


def section(board: Board) -> str:
    parts = [f"### {board.title}"]
    parts += [board.note] if board.note else []
    shown = list(board.measures)[:MEASURES]
    parts += [text for measure in shown if (text := measure_table(board, measure))]
    parts.append(best_table(board, shown[0]))
    return "\n\n".join(parts)


def measure_table(board: Board, measure: str) -> str:
    """Methods by number of removed layers."""
    sizes = board.sizes()
    entries = {(entry.method, entry.n): entry for entry in board.entries}
    best = {n: found for n in sizes if (found := board.best(measure, n)) is not None}
    if not best:
        return ""
    rows = [
        [method, *(cell(entries.get((method, n)), best.get(n), measure) for n in sizes)] for method in board.methods()
    ]
    body = [row for row in rows if set(row[1:]) != {"-"}]
    head = f"Perplexity of {measure}; dense {number(board.measures[measure].dense)}:"
    return f"{head}\n\n{markdown(['method', *(f'{n} removed' for n in sizes)], body)}"


def cell(entry: Entry | None, best: Entry | None, measure: str) -> str:
    if entry is None or best is None or measure not in entry.perplexity:
        return "-"
    value = figure(entry, measure)
    if not math.isfinite(value):
        return "overflows"
    return f"**{number(value)}**" if value <= 1.0005 * figure(best, measure) else number(value)


def best_table(board: Board, measure: str) -> str:
    """The best set of each size."""
    found = [(n, board.best(measure, n)) for n in board.sizes()]
    body = [
        [str(n), " ".join(map(str, entry.removed)), number(figure(entry, measure)), entry.method, entry.date]
        for n, entry in found
        if entry is not None
    ]
    header = ["removed", "layers", "perplexity", "method", "measured"]
    return f"The best set of each size by {measure} (all sets: `benchmarks/leaderboard/{board.model}.json`):\n\n" + (
        markdown(header, body)
    )


def games_section() -> str:
    body = []
    for name in NAMES:
        players, values, empty = read_game(GAMES / f"{name}.json")
        title = shapiq_data(name)["description"].removeprefix("Layers of ").partition(":")[0]
        body.append([f"`games/{name}.json`", title, str(len(players)), f"{len(values):,}", f"{empty:.3g}"])
    header = ["file", "model and text", "players", "coalitions", "value of no layer"]
    return f"### Games of which every value is known\n\n{markdown(header, body)}"

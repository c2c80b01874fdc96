"""A model's file from the records of `benchmarks.real_model.compare`: no model is run.

Rows that make another model than the whole one under a mask (compensated, or narrower) are left out: their figures are
not those of a set.
"""

from __future__ import annotations

import math
from typing import Any

from benchmarks.leaderboard.board import Board, Entry, Measured
from benchmarks.real_model.compare import most_tested
from benchmarks.real_model.records import layers_key
from benchmarks.real_model.results import is_task, perplexity
from benchmarks.real_model.subject import OWN_TEXT, record_of
from benchmarks.records import read
from layershap import __version__

COMMAND = "python -m benchmarks.real_model.compare run"
CALIBRATED_ON = {"gpt2": "Treasure Island"}
OWN_KIND = {"gpt2": "book"}
"""The tested text that is of the kind that the model was trained on comes first."""
WIKITEXT = "every second article of WikiText-2 raw test; the articles between them are tested"
OTHER_TEXTS = {
    "c4": "the half of the C4 sample that isn't tested",
    "book": "Treasure Island",
    "chat": "questions with answers, chat format",
    "tokenised": "WikiText-2 validation, tokenised",
}


def collected(model: str, title: str, n_layers: int, draw: int, told: dict[str, str]) -> Board:
    """The board of a model's finished rows.

    Parameters
    ----------
    model : str
        As the records call it.
    title : str
        For readers.
    n_layers : int
        Layers of the whole model.
    draw : int
        Draw of the calibration sequences.
    told : dict of str to str
        ``note``, and ``calibrated_on`` where the rows' own text isn't that of the present code.
    """
    fits, tests = read(record_of(model, draw, "fits")), read(record_of(model, draw, "tests"))
    if not fits or not tests:
        raise SystemExit(f"no finished rows of {model}; `python -m benchmarks.real_model.compare run` makes them")
    by_set: dict[str, dict[str, dict[str, Any]]] = {}
    for row in tests:
        if not is_task(row["measure"]):
            by_set.setdefault(row["set"], {})[row["measure"]] = row
    dense = by_set.get("", {})
    shown = most_tested(tests)
    measures = {
        key: Measured(key.split(", ")[1], row["tokens"], float(f"{perplexity(row):.6g}"))
        for key, row in sorted(
            dense.items(), key=lambda item: not item[0].startswith(OWN_KIND.get(model, "WikiText-2"))
        )
        if key in shown
    }
    own = told.get("calibrated_on") or CALIBRATED_ON.get(model, WIKITEXT)
    entries = []
    for fit in fits:
        for removed in fit["sets"].values():
            scored = {} if removed is None else by_set.get(layers_key(removed), {})
            scored = {measure: row for measure, row in scored.items() if measure in measures}
            if scored:
                entries.append(_entry(fit, removed, scored, _text_of(fit["key"], own)))
    return Board(model, title, n_layers, told.get("note", ""), measures, entries)


def _entry(fit: dict[str, Any], removed: list[int], scored: dict[str, dict[str, Any]], text: str) -> Entry:
    found = {measure: rounded(perplexity(row)) for measure, row in scored.items()}
    last = max(scored.values(), key=lambda row: row["date"])
    versions = {"layershap": __version__, "torch": last["torch"]}
    return Entry(fit["key"], removed, found, text, COMMAND, last["date"], versions)


def _text_of(method: str, own: str) -> str:
    """Row names end in ``N sequences``, of a kind of text if it isn't the model's own."""
    _, reads, kind = method.partition(" sequences")
    if not reads:
        return ""
    return OTHER_TEXTS.get(kind.removeprefix(" of ") or OWN_TEXT, own)


def rounded(value: float) -> float | None:
    """Six digits; None for what JSON has no number for."""
    return float(f"{value:.6g}") if math.isfinite(value) else None

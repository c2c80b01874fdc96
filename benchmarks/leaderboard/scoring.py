"""Score a submitted set on the measures of a model's file, beside the best set of its size there.

Both are evaluated in the same run, so that their difference has a standard error over the sequences, and the file's own
figure is reproduced or found to differ.

Shapes: S sequences.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers

from benchmarks.common import provenance
from benchmarks.leaderboard.board import Board, Entry, check_removed, figure
from benchmarks.leaderboard.collecting import rounded
from benchmarks.real_model.subject import Limits, Measure, Subject
from layershap import LayerGame, __version__
from layershap.comparison.difference import PairedDifference, paired_difference
from layershap.masks import without

SAME = 1e-3
"""Relative difference up to which a figure counts as reproduced: kernels differ from machine to machine."""


@dataclass(frozen=True)
class Submission:
    """Sets of one method, as `{"method": ..., "calibrated_on": ..., "sets": [[...], ...]}` in a JSON file."""

    method: str
    calibrated_on: str
    sets: list[list[int]]

    @classmethod
    def read(cls, path: Path) -> Submission:
        data = json.loads(path.read_text(encoding="utf-8"))
        missing = {"method", "calibrated_on", "sets"} - set(data)
        if missing:
            raise SystemExit(f"{path} must hold method, calibrated_on and sets; it lacks {', '.join(sorted(missing))}")
        return cls(data["method"], data["calibrated_on"], [sorted(removed) for removed in data["sets"]])


@dataclass(frozen=True)
class Comparison:
    """A submitted set by one measure.

    Attributes
    ----------
    measure : str
        Text, protocol, number of sequences.
    perplexity : float
        Of the submitted set.
    rank, of : int
        Its place among the file's entries of the size, itself included; 1 is best.
    best : Entry or None
        The file's best entry of the size.
    best_again : float
        What that scores in this run.
    difference : PairedDifference
        By how much the submitted set's perplexity is higher than that.
    """

    measure: str
    perplexity: float
    rank: int
    of: int
    best: Entry | None
    best_again: float
    difference: PairedDifference

    def __str__(self) -> str:
        line = f"{self.measure}: {self.perplexity:.2f}, place {self.rank} of {self.of}"
        if self.best is None:
            return line
        written = figure(self.best, self.measure)
        same = abs(self.best_again / written - 1) <= SAME
        again = "reproduced" if same else f"NOT reproduced: {self.best_again:.2f} here"
        return (
            f"{line}; best of the file {written:.2f} ({self.best.method}; {again}), from which "
            f"it differs by {self.difference.percent:+.2f} ± {self.difference.percent_error:.2f}%"
        )


def measures_of(board: Board, subject: Subject) -> list[Measure]:
    """Those of the board's measures that the present texts give."""
    counts = [int(key.rpartition(", ")[2].split()[0]) for key in board.measures]
    found: dict[str, Measure] = {}
    # Some texts are tested on half as many sequences as the first: the likeliest number is tried first.
    for limit, _ in Counter([*(2 * count for count in counts), *counts]).most_common():
        if found.keys() != board.measures.keys():
            made = subject.measures(Limits(sequences=limit, questions=1))
            found |= {measure.key: measure for measure in made if measure.key in board.measures}
    return [found[key] for key in board.measures if key in found]


def compared(board: Board, subject: Subject, removed: list[int]) -> list[Comparison]:
    """The set by each measure."""
    check_removed(removed, board.n_layers)
    found = []
    for measure in measures_of(board, subject):
        best = board.best(measure.key, len(removed))
        sets = [removed] + ([best.removed] if best is not None and best.removed != removed else [])
        masks = np.array([without(layers, board.n_layers) for layers in sets])
        with LayerGame(subject.model, measure.calibration) as game:
            statistics = game.statistics(masks)
        tokens_S = np.asarray(statistics.counts, dtype=float)
        nll_S = [np.asarray(sums_S, dtype=float) for sums_S in statistics.sums["nll"]]
        values = [float(np.exp(sums_S.sum() / tokens_S.sum())) for sums_S in nll_S]
        difference = paired_difference(nll_S[0], nll_S[-1], tokens_S)
        others = [entry for entry in board.of_size(len(removed)) if entry.removed != removed]
        lower = {tuple(entry.removed) for entry in others if figure(entry, measure.key) < values[0]}
        of = len({tuple(entry.removed) for entry in others if measure.key in entry.perplexity}) + 1
        found.append(Comparison(measure.key, values[0], len(lower) + 1, of, best, values[-1], difference))
    return found


def entry_of(submission: Submission, removed: list[int], scores: list[Comparison]) -> Entry:
    """What is added to the file."""
    versions = {"layershap": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    found = {score.measure: rounded(score.perplexity) for score in scores}
    command = provenance().split("`")[1]
    return Entry(
        submission.method, removed, found, submission.calibrated_on, command, time.strftime("%Y-%m-%d"), versions
    )


def with_entry(board: Board, entry: Entry) -> Board:
    """The board with an entry that takes the place of the method's earlier one of the size."""
    kept = [old for old in board.entries if (old.method, old.n) != (entry.method, entry.n)]
    return Board(board.model, board.title, board.n_layers, board.note, board.measures, [*kept, entry])

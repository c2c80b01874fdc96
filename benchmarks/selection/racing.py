"""How often does a race lose the set that is best on all of the text, and by how much?

    python -m benchmarks.selection.racing --write benchmarks/results/racing.md

Made-up scores of sequences, as many races as it takes to tell a rate of one in a thousand; parts, test and confidence
are those of the library. In a race of N sets each part of the text drops those that are beaten by the best so far.

Shapes: R races, N sets, S sequences.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import t as student

from benchmarks.common import markdown, print_table
from layershap import Calibration, SurrogateSearch
from layershap.fitting.text import split_text
from layershap.protocols import FloatArray, IntArray

RACES = 20_000
SEQUENCES = 128
CONFIDENCE = 0.999

Scores = Callable[[np.random.Generator, int, int, int], FloatArray]


def equal(rng: np.random.Generator, n_races: int, n_sets: int, n_sequences: int) -> FloatArray:
    return rng.normal(size=(n_races, n_sets, n_sequences))


def heavy_tails(rng: np.random.Generator, n_races: int, n_sets: int, n_sequences: int) -> FloatArray:
    return rng.standard_t(3, size=(n_races, n_sets, n_sequences))


def different(rng: np.random.Generator, n_races: int, n_sets: int, n_sequences: int) -> FloatArray:
    return equal(rng, n_races, n_sets, n_sequences) + 0.3 * rng.normal(size=(n_races, n_sets, 1))


CASES: dict[str, Scores] = {
    "all sets equally good": equal,
    "all equally good, heavy tails (Student's t, 3)": heavy_tails,
    "means that differ by 0.3 of a sequence's spread": different,
}


def parts() -> IntArray:
    """Sequences read after each part of the default's text but the last."""
    ids = torch.arange(2 * SEQUENCES).reshape(SEQUENCES, 2)
    text = split_text(Calibration(ids, ids), races=True, held_back=SurrogateSearch().held_back)
    return np.cumsum([part.n_sequences for part in text.searched])


def lost(scores_RNS: FloatArray, read: IntArray, confidence: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Whether the best set on all sequences drops out [R], by how many standard errors what is left is worse [R], and
    the share of the evaluations that the races spare [R].
    """
    races = np.arange(len(scores_RNS))
    alive_RN = np.ones(scores_RNS.shape[:2], dtype=bool)
    spent_R = np.zeros(len(races))
    before = 0
    for count in read[:-1]:
        spent_R += alive_RN.sum(axis=1) * (count - before)
        before = count
        seen_RNS = scores_RNS[:, :, :count]
        best_R = np.where(alive_RN, seen_RNS.mean(axis=2), -np.inf).argmax(axis=1)
        ahead_RNS = seen_RNS[races, best_R][:, None] - seen_RNS
        error_RN = ahead_RNS.std(axis=2, ddof=1) / np.sqrt(count)
        alive_RN &= ~((ahead_RNS.mean(axis=2) > student.ppf(confidence, count - 1) * error_RN) & (error_RN > 0))
    spent_R += alive_RN.sum(axis=1) * (read[-1] - before)
    mean_RN = scores_RNS.mean(axis=2)
    best_R, left_R = mean_RN.argmax(axis=1), np.where(alive_RN, mean_RN, -np.inf).argmax(axis=1)
    behind_RS = scores_RNS[races, best_R] - scores_RNS[races, left_R]
    gone_R = ~alive_RN[races, best_R]
    with np.errstate(invalid="ignore"):
        worse_R = behind_RS.mean(axis=1) / (behind_RS.std(axis=1, ddof=1) / np.sqrt(read[-1]))
    return gone_R, np.where(gone_R, worse_R, 0.0), 1 - spent_R / (scores_RNS.shape[1] * read[-1])


def table() -> str:
    read = parts()
    rows = []
    for name, scores in CASES.items():
        for n_sets in (2, 8, 30):
            rng = np.random.default_rng(0)
            found = [lost(scores(rng, 500, n_sets, int(read[-1])), read, CONFIDENCE) for _ in range(RACES // 500)]
            gone_R, worse_R, spared_R = (np.concatenate(part) for part in zip(*found, strict=True))
            error = np.sqrt(gone_R.mean() * (1 - gone_R.mean()) / len(gone_R))
            rows.append(
                [
                    name,
                    str(n_sets),
                    f"{1000 * gone_R.mean():.1f} ± {1000 * error:.1f}",
                    f"{worse_R[gone_R].mean():.1f}" if gone_R.any() else "-",
                    f"{100 * spared_R.mean():.0f}",
                ]
            )
    header = ["scores", "sets", "best set lost, per 1,000 races", "then worse by, standard errors", "spared, %"]
    text = ", ".join(map(str, read))
    return f"{RACES:,} races, parts after {text} sequences, confidence {CONFIDENCE}.\n\n{markdown(header, rows)}"


def main() -> None:
    print_table(__doc__, table)


if __name__ == "__main__":
    main()

"""The tables of `generalisation.py`: test perplexities, sets and costs by method and by amount of calibration text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.common import markdown
from layershap.calibration.blocks import AUTO_SEQUENCES

TEXTS = {"same": "the calibration's kind of text", "other": "another kind of text"}


def table(rows: list[dict[str, Any]]) -> str:
    """What each amount of text is worth and costs, then perplexities and layers by method, amount and depth: all over
    the draws that every method of an amount has.
    """
    if not rows:
        raise SystemExit("nothing was run for this model yet")
    depths = [int(n) for n in rows[0]["sets"]]
    counts = {count: of_count(rows, count) for count in sorted({row["sequences"] for row in rows})}
    lines = by_amount(rows, counts, depths) if len(counts) > 1 else []
    # Of many amounts the default's is shown in full.
    for count, amount in counts.items() if AUTO_SEQUENCES not in counts else [(AUTO_SEQUENCES, counts[AUTO_SEQUENCES])]:
        lines += [f"### {count} sequences, draws {', '.join(map(str, amount.draws))}", ""]
        for kind, title in TEXTS.items():
            means = {name: np.mean(perplexities(found, kind, depths), axis=0) for name, found in amount.methods.items()}
            lowest = np.min(list(means.values()), axis=0)
            body = [
                [name, *(f"**{v:.1f}**" if v <= best * 1.0005 else f"{v:.1f}" for v, best in zip(found, lowest))]
                for name, found in means.items()
            ]
            lines += [f"Test perplexity on {title} (`seq128`), mean over the draws:", ""]
            lines += [markdown(["method", *(f"{n} removed" for n in depths)], body), ""]
        if count == AUTO_SEQUENCES:
            lines += ["Layers removed:", "", layers(amount, depths), ""]
    lines += [
        "CPU seconds of a fit, the most of the draws; what a ledger supplied costs nothing (greedy follows the "
        "default; of a fit that was interrupted the last part counts):",
        "",
        costs(counts),
        "",
    ]
    return "\n".join(lines)


@dataclass(frozen=True)
class Amount:
    """The fits on one number of sequences: rows by method, those of the draws that all methods have."""

    draws: list[int]
    methods: dict[str, list[dict[str, Any]]]


def of_count(rows: list[dict[str, Any]], count: int) -> Amount:
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        if row["sequences"] == count:
            found.setdefault(row["method"], {})[row["draw"]] = row
    draws = sorted(set.intersection(*(set(of_method) for of_method in found.values())))
    return Amount(draws, {name: [of_method[draw] for draw in draws] for name, of_method in found.items()})


def perplexities(rows: list[dict[str, Any]], kind: str, depths: list[int]) -> np.ndarray:
    return np.array([[row[kind][str(n)] for n in depths] for row in rows])


def by_amount(rows: list[dict[str, Any]], counts: dict[int, Amount], depths: list[int]) -> list[str]:
    """Test perplexity above that of the best set that any fit has found, by method and number of sequences."""
    lines = []
    for kind, title in TEXTS.items():
        best = perplexities(rows, kind, depths).min(axis=0)
        body = []
        for name in dict.fromkeys(name for amount in counts.values() for name in amount.methods):
            for count, amount in counts.items():
                if name in amount.methods:
                    excess = 100 * (perplexities(amount.methods[name], kind, depths) / best - 1)
                    cells = [f"{mean:.1f} ({most:.1f})" for mean, most in zip(excess.mean(axis=0), excess.max(axis=0))]
                    body.append([name, str(count), str(len(amount.draws)), *cells])
        lines += [
            f"Test perplexity on {title} over that of the best set of any fit here, in %, mean over the draws (worst):",
            "",
            markdown(["method", "sequences", "draws", *(f"{n} removed" for n in depths)], body),
            "",
        ]
    return lines


def costs(counts: dict[int, Amount]) -> str:
    names = dict.fromkeys(name for amount in counts.values() for name in amount.methods)
    body = [
        [
            name,
            *(
                f"{max(row['cpu_seconds'] for row in amount.methods[name]):.0f}" if name in amount.methods else "-"
                for amount in counts.values()
            ),
        ]
        for name in names
    ]
    return markdown(["method", *(f"{count} sequences" for count in counts)], body)


def layers(amount: Amount, depths: list[int]) -> str:
    body = [
        [name, str(row["draw"]), *(" ".join(map(str, row["sets"][str(n)])) for n in depths)]
        for name, rows in amount.methods.items()
        for row in rows
    ]
    return markdown(["method", "draw", *map(str, depths)], body)

"""README's table: what removing layers costs, of the rows that matter most."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.common import markdown
from benchmarks.real_model.results import RANDOM, Results, how_made, perplexity
from benchmarks.real_model.rows import (
    BLIND_SLEB,
    DEFAULT_MANY,
    DEFAULT_REFIT,
    FEW,
    FEWER_MASKS,
    MANY,
    RACED_SLEB,
    SLEB_REFIT,
    key_of,
    paper_name,
)
from benchmarks.real_model.tables import bold, lowest, number, removed
from layershap.fitting.recipes import PAPER_RECIPES

ROWS = {
    DEFAULT_MANY: (DEFAULT_MANY,),
    "SLEB": (key_of(BLIND_SLEB, MANY), key_of(RACED_SLEB, MANY)),
    "one-shot perplexity": (key_of("one-shot perplexity", MANY),),
    "Taylor, ends protected": (key_of("Taylor, ends protected", MANY),),
    "ShortGPT": (key_of("ShortGPT", MANY),),
    "angular distance": (key_of("angular distance", MANY),),
    "the paper's recipe": tuple(
        key_of(paper_name(count), FEW)
        for count in sorted({FEWER_MASKS, *(recipe.n_masks for recipe in PAPER_RECIPES.values())}, reverse=True)
    ),
    "SliceGPT": (key_of("SliceGPT (width, as many parameters)", MANY),),
    RANDOM: (RANDOM,),
    DEFAULT_REFIT: (DEFAULT_REFIT,),
    SLEB_REFIT: (SLEB_REFIT,),
}
"""What must be there, and the rows that will do, the best first."""
PROTOCOL = "seq128"
TEXTS = ("WikiText-2 test", "C4")


def readme_table(title: str, results: Results, measures: list[str]) -> str:
    """Perplexities on two texts, a cell for both; names the rows that aren't measured yet."""
    found = [next((m for m in measures if m.startswith(f"{text}, {PROTOCOL}, ")), None) for text in TEXTS]
    tested = [measure for measure in found if measure is not None]
    if len(tested) < len(TEXTS):
        return f"{title}: nothing is measured yet; `python -m benchmarks.real_model.compare run` does."
    depths = results.depths
    values = {name: figures(results, tested, name, depths) for wanted in ROWS.values() for name in wanted}
    names = [next((n for n in wanted if not np.isnan(values[n]).all()), None) for wanted in ROWS.values()]
    shown = [name for name in names if name is not None]
    best = [lowest(np.array([values[name][text] for name in shown]), results, shown) for text in range(len(TEXTS))]
    body = [
        [name, *(cell(values[name][:, column], [b[row, column] for b in best]) for column in range(len(depths)))]
        for row, name in enumerate(shown)
    ]
    missing = [wanted for wanted, name in zip(ROWS, names) if name is None]
    parts = [heading(title, results, tested), markdown(["method", *removed(depths)], body)]
    parts += [f"Not measured yet: {'; '.join(missing)}."] if missing else []
    return "\n\n".join(parts)


def figures(results: Results, measures: list[str], name: str, depths: list[int]) -> Any:
    """Perplexities [texts, n]."""
    return np.array([[results.perplexity(measure, name, n) for n in depths] for measure in measures])


def cell(values: Any, best: list[bool]) -> str:
    return " / ".join(bold(number(float(value)), is_best) for value, is_best in zip(values, best))


def heading(title: str, results: Results, measures: list[str]) -> str:
    amounts = " / ".join(f"{text}, {m.rpartition(', ')[2]}" for text, m in zip(TEXTS, measures))
    dense = " / ".join(number(perplexity(results.tests.get((measure, "")))) for measure in measures)
    return (
        f"{title}. Perplexity (`{PROTOCOL}`: sequences of 128 tokens, no BOS for each) of {amounts}; all layers: "
        f"{dense}. Calibrated on sequences of 128 tokens of other articles of that file; the mixture is half of these, "
        "half C4 that isn't tested. Bold: the lowest, among rows that only remove layers and among those that "
        "compensate. Printed by `python -m benchmarks.real_model.compare readme --write README.md`. "
        f"{how_made([*results.fits.values(), *results.tests.values()])}"
    )

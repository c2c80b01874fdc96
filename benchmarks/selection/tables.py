"""The tables that `selection.py` prints, and the targets that were set beforehand with what was measured.

Shapes: N numbers of removed layers, R calibration sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.common import markdown
from benchmarks.selection.methods import DEFAULT, EXACT, GREEDY, GREEDY_MASKS, ONE_SHOT, OPTIMUM, SHORT_GPT, SLICE_GPT
from benchmarks.selection.problems import MORE_SEQUENCES, SEQUENCES
from layershap.protocols import FloatArray

PAPER_MASKS = 8000


def on_more(name: str) -> str:
    """A method's name where it is given more calibration text."""
    return f"{name}, {MORE_SEQUENCES} sequences"


@dataclass(frozen=True)
class Result:
    """What one method chose on one model: perplexities [R, N] on its calibration text, on test text and on other texts
    (NaN where it can't remove so many), and its mean costs.
    """

    calibration: FloatArray
    test: FloatArray
    other: FloatArray
    masks: float
    layer_runs: float
    layer_run_tokens: float


def excess(values: FloatArray, best: FloatArray) -> FloatArray:
    """Percent above the best."""
    return 100 * (values / best - 1)


def percent(value: float) -> str:
    if not np.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def mean_and_worst(values: FloatArray) -> str:
    if np.isnan(values).all():
        return "-"
    return f"{percent(float(np.nanmean(values)))} ({percent(float(np.nanmax(values)))})"


def regret_table(results: dict[str, Result]) -> str:
    # What narrows the model chooses no set, and fits the calibration text better than any set can.
    by_sets = [result for name, result in results.items() if name != SLICE_GPT]
    best = {
        field: np.nanmin([getattr(result, field) for result in by_sets], axis=0) for field in ("calibration", "test")
    }
    elsewhere = bool(np.isfinite(by_sets[0].other).any())
    if elsewhere:
        best["other"] = np.nanmin([result.other for result in by_sets], axis=0)
    rows = []
    for name, result in results.items():
        above = [excess(getattr(result, field), lowest) for field, lowest in best.items()]
        rows.append(
            [
                name + ("" if np.isfinite(result.test).all() else " (not every n)"),
                *(mean_and_worst(v) for v in above),
                f"{result.masks:,.0f}",
                f"{result.layer_runs:,.0f}",
                f"{result.layer_run_tokens / 1e6:,.2f}",
            ]
        )
    header = ["method", "calibration regret %", "test excess %", *["other texts, excess %"] * elsewhere]
    return markdown([*header, "masks", "layer runs", "layer runs x tokens, 10^6"], rows)


def depth_table(results: dict[str, Result], max_remove: int) -> str:
    rows = [[name, *(percent(value) for value in result.test.mean(axis=0))] for name, result in results.items()]
    return markdown(["removed", *(str(n) for n in range(1, max_remove + 1))], rows)


def reach(results: dict[str, Result], n_layers: int, paper_runs: int) -> list[str]:
    """The targets that were set beforehand, each with what was measured."""
    default, wide = results[DEFAULT], results[on_more(DEFAULT)]
    lines = []
    if OPTIMUM in results:
        regret = float(excess(default.calibration, results[OPTIMUM].calibration).mean())
        lines.append(f"calibration regret of the default against the optimum: {regret:.3f}% (target 0.1%)")
    # Tokens as those of the default: the paper's method has no use for more.
    paper_tokens = default.layer_run_tokens / default.layer_runs
    of_authors, of_ours = PAPER_MASKS * n_layers * paper_tokens, paper_runs * paper_tokens
    for name, result in ((DEFAULT, default), (on_more(DEFAULT), wide)):
        lines.append(
            f"layer runs x tokens of {name}: 1/{of_authors / result.layer_run_tokens:,.0f} of what the authors' code "
            f"runs for {PAPER_MASKS:,} masks on {SEQUENCES} sequences (every layer for every mask; target 1/20), "
            f"1/{of_ours / result.layer_run_tokens:,.1f} of what the same masks cost here (prefixes shared, each mask "
            "once)"
        )
    baselines = {k: r for k, r in results.items() if not k.startswith("layershap") and k not in (OPTIMUM, EXACT)}
    wider = {on_more(name) for name in results}
    on_as_much = {k: r for k, r in baselines.items() if k not in wider}
    lines.append(against_baselines(DEFAULT, default, on_as_much))
    lines.append(against_baselines(on_more(DEFAULT), wide, baselines))
    half, greedy = n_layers // 2, results[GREEDY]
    for name in (DEFAULT, GREEDY_MASKS):
        gain = float(excess(results[name].test.mean(axis=0), greedy.test.mean(axis=0))[half - 1])
        on_calibration = float(excess(results[name].calibration, greedy.calibration).mean(axis=0)[half - 1])
        lines.append(
            f"half the layers removed, {name} over greedy: {gain:+.2f}% on test text, {on_calibration:+.2f}% on the "
            f"calibration text, with {results[name].masks:.0f} masks against greedy's {greedy.masks:.0f} (target -3% "
            "from 24 layers on, at no more masks)"
        )
    of_paper = [name for name in results if name.startswith("the paper")][-1]
    reference = OPTIMUM if OPTIMUM in results else DEFAULT
    above = {k: float(excess(results[k].test, results[reference].test).mean()) for k in (of_paper, SHORT_GPT, ONE_SHOT)}
    figures = ", ".join(f"{k} {percent(v)}%" for k, v in above.items())
    lines.append(f"the paper's ordering: {figures} above {reference} on test text")
    return lines


def against_baselines(name: str, chosen: Result, baselines: dict[str, Result]) -> str:
    """Where a method is furthest behind any baseline, and which baseline is nearest on average."""
    mean = chosen.test.mean(axis=0)
    behind = {k: excess(mean, result.test.mean(axis=0)) for k, result in baselines.items()}
    worst = max(behind, key=lambda k: float(np.nanmax(behind[k])))
    nearest = max(behind, key=lambda k: float(np.nanmean(behind[k])))
    return (
        f"test perplexity of {name} over any baseline's at the same n, at worst: {np.nanmax(behind[worst]):+.2f}% "
        f"({worst}, {int(np.nanargmax(behind[worst])) + 1} removed; target +0.5%); averaged over n, over the nearest "
        f"baseline's: {np.nanmean(behind[nearest]):+.2f}% ({nearest}; target below 0)"
    )

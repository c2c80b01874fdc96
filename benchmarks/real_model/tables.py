"""The tables, from the records alone: no model is loaded."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from benchmarks.common import markdown
from benchmarks.real_model.results import RANDOM, Results, is_task, mean_accuracy, perplexity
from benchmarks.real_model.rows import (
    BLIND_SLEB,
    DEFAULT,
    DEFAULT_MANY,
    DEFAULT_REFIT,
    GREEDY,
    MANY,
    RACED_SLEB,
    RANKED,
    SLEB_REFIT,
    key_of,
)
from layershap.protocols import FloatArray, MaskArray

PRIMARY = "WikiText-2 test, seq128"


def tables(
    results: Results, measures: list[str], missing: list[str], left_out: dict[str, str], speed: list[dict[str, Any]]
) -> str:
    """All that is known so far; `missing` names the rows that aren't finished, `left_out` has reasons by what can't
    be done.
    """
    depths, names = results.depths, shown(results)
    texts, tasks = [m for m in measures if not is_task(m)], [m for m in measures if is_task(m)]
    parts = []
    if missing:
        parts.append(f"Not finished yet: {'; '.join(missing)}.")
    parts.append(reasons_list(left_out))
    parts += [text_table(results, measure, names, depths) for measure in texts]
    parts += [accuracy_table(results, tasks, names, depths, metric) for metric in ("acc", "acc_norm")]
    parts += [task_table(results, tasks, names, depths), reach(results, texts, tasks, depths)]
    parts += [speed_table(speed), cost_table(results), compensation_table(results, depths), set_table(results, depths)]
    return "\n\n".join(part for part in parts if part)


def reasons_list(left_out: dict[str, str]) -> str:
    """What was left out, by the reason."""
    if not left_out:
        return ""
    by_reason: dict[str, list[str]] = {}
    for what, reason in left_out.items():
        by_reason.setdefault(reason, []).append(what)
    lines = [f"- {'; '.join(found)}: {reason}" for reason, found in by_reason.items()]
    return "\n".join(["Left out, with the reason:", "", *lines])


def shown(results: Results) -> list[str]:
    """Rows in the order of the tables: ours, then the others; the random ones as one; those compensated last."""
    plain = [key for key in results.fits if key not in results.compensated and key not in results.random_rows]
    ours = [key for key in plain if key.startswith((DEFAULT, RANKED))]
    ours.sort(key=lambda key: (key != DEFAULT_MANY, key))
    others = sorted(key for key in plain if key not in ours)
    return [*ours, *others, *([RANDOM] if results.random_rows else []), *results.compensated]


def lowest(values: FloatArray, results: Results, names: list[str]) -> MaskArray:
    """The best of each column [rows, n], once among the rows that only remove and once among those that compensate."""
    best = np.zeros(values.shape, dtype=bool)
    compensated = np.isin(names, results.compensated)
    for group in (compensated, ~compensated):
        if group.any():
            known = np.nan_to_num(values[group], nan=np.inf)
            best[group] = (known <= 1.0005 * known.min(axis=0)) & np.isfinite(known)
    return best


def text_table(results: Results, measure: str, names: list[str], depths: list[int]) -> str:
    values = np.array([[results.perplexity(measure, name, n) for n in depths] for name in names])
    if np.isnan(values).all():
        return ""
    best = lowest(values, results, names)
    body = [[name, *map(bold, map(number, row), low)] for name, row, low in zip(names, values.tolist(), best.tolist())]
    dense = number(perplexity(results.tests.get((measure, ""))))
    return f"Perplexity of {measure}; dense {dense}:\n\n{markdown(['method', *removed(depths)], body)}"


def accuracy_table(results: Results, tasks: list[str], names: list[str], depths: list[int], metric: str) -> str:
    cells = [[results.accuracy(tasks, name, n, metric) for n in depths] for name in names]
    means = np.array(cells)[..., 0]
    if np.isnan(means).all():
        return ""
    best = lowest(np.exp(-means), results, names)
    texts = [[percent(*cell) for cell in row] for row in cells]
    body = [[name, *map(bold, row, high)] for name, row, high in zip(names, texts, best.tolist())]
    dense = percent(*mean_accuracy([results.tests.get((task, "")) for task in tasks], metric))
    what = "`acc`" if metric == "acc" else "`acc_norm` (by characters; WinoGrande's `acc`)"
    head = f"Mean accuracy of {len(tasks)} tasks, {what}, in %, with its standard error; dense {dense}"
    return f"{head} ({'; '.join(tasks)}):\n\n{markdown(['method', *removed(depths)], body)}"


def task_table(results: Results, tasks: list[str], names: list[str], depths: list[int]) -> str:
    """Each task at the second smallest number of layers: at more of them all are near chance."""
    if not tasks or not depths:
        return ""
    n = depths[min(1, len(depths) - 1)]
    body = [["dense", *(percent(mean_accuracy([results.tests.get((task, ""))], "acc")[0]) for task in tasks)]]
    body += [[name, *(percent(results.accuracy([task], name, n)[0]) for task in tasks)] for name in names]
    header = ["method", *(task.split(",")[0] for task in tasks)]
    return f"Accuracy of each task (`acc`, %) with {n} layers removed:\n\n{markdown(header, body)}"


def reach(results: Results, texts: list[str], tasks: list[str], depths: list[int]) -> str:
    """The default on the most text against every baseline: leads in percent of perplexity, and in accuracy."""
    primary = next((text for text in texts if text.startswith(PRIMARY)), None)
    if primary is None or DEFAULT_MANY not in results.fits:
        return ""
    lines = []
    baselines = [
        name
        for name in shown(results)
        if not name.startswith((DEFAULT, RANKED)) and name != RANDOM and name not in results.compensated
    ]
    for n in depths:
        known = [name for name in baselines if not math.isnan(results.perplexity(primary, name, n))]
        if not known or math.isnan(results.perplexity(primary, DEFAULT_MANY, n)):
            continue
        best = min(known, key=lambda name: results.perplexity(primary, name, n))
        line = f"{n} removed, {primary}: the default {lead(results, primary, best, n)} the best baseline ({best})"
        slebs = (key_of(BLIND_SLEB, MANY), key_of(RACED_SLEB, MANY))
        sleb = next((name for name in slebs if name in known), best)
        if sleb != best:
            line += f", {lead(results, primary, sleb, n)} {sleb}"
        accuracies = {name: results.accuracy(tasks, name, n) for name in (DEFAULT_MANY, *baselines)}
        accuracies = {name: found for name, found in accuracies.items() if not math.isnan(found[0])}
        if DEFAULT_MANY in accuracies and len(accuracies) > 1:
            highest = max((name for name in accuracies if name != DEFAULT_MANY), key=lambda name: accuracies[name][0])
            ours = percent(*accuracies[DEFAULT_MANY])
            line += f"; mean accuracy {ours} against at most {percent(*accuracies[highest])} ({highest})"
        compensated = [results.perplexity(primary, name, n) for name in (DEFAULT_REFIT, SLEB_REFIT)]
        if not np.isnan(compensated).any():
            line += f"; both with LinearRefit, the default {lead(results, primary, SLEB_REFIT, n, DEFAULT_REFIT)} SLEB"
        lines.append(f"- {line}.")
    head = "Against the baselines (standard errors over the test sequences, which all rows share):"
    return "\n".join([head, "", *lines])


def lead(results: Results, measure: str, theirs: str, n: int, ours: str = DEFAULT_MANY) -> str:
    layers = results.layers(ours, n)
    if layers is not None and layers == results.layers(theirs, n):
        return "removes the same layers as"
    found = results.difference(measure, ours, theirs, n)
    if found is None:
        return "can't be compared with"
    error = f"(standard error {found.percent_error:.1f})"
    amount = f"{abs(found.percent):.1f}%"
    if amount == "0.0%":
        return f"is level with {error}"
    return f"is {amount} {error} {'above' if found.percent > 0 else 'below'}"


def speed_table(speed: list[dict[str, Any]]) -> str:
    """The last timing on each device."""
    header = ["removed", "parameters, 10^6", "MiB", "batch", "prefill, tokens/s", "decode, tokens/s"]
    parts = []
    for device, timing in {row.get("device", row["machine"]): row for row in speed}.items():
        body = [
            [
                str(row["n_remove"]),
                f"{row['parameters'] / 1e6:,.1f}",
                f"{row['bytes'] / 2**20:,.0f}",
                str(row["batch_size"]),
                rate(row, "prefill_tokens_per_second", 0),
                rate(row, "decode_tokens_per_second", 1),
            ]
            for row in timing["records"]
        ]
        parts.append(f"Size and speed on {device} ({timing['what']}; smallest to largest):\n\n{markdown(header, body)}")
    return "\n\n".join(parts)


def rate(row: dict[str, Any], name: str, digits: int) -> str:
    """Tokens a second: the median, and the smallest to the largest where there are several."""
    if row[name] is None:
        return "-"
    numbers = [f"{value:,.{digits}f}" for value in (row[name], *(row.get(f"{name}_range") or ()))]
    return numbers[0] if len(numbers) == 1 else f"{numbers[0]} ({numbers[1]} to {numbers[2]})"


def cost_table(results: Results) -> str:
    body = []
    for key, row in results.fits.items():
        if key in results.random_rows or key in results.compensated:
            continue
        at_least = "" if row["whole"] else "> "
        body.append(
            [
                key,
                f"{row['masks']:,}",
                f"{row['layer_run_tokens'] / 1e6:,.2f}",
                f"{at_least}{row['seconds']:,.0f}" if "seconds" in row else "-",
                f"{at_least}{row['cpu_seconds']:,.0f}",
                "-"
                if "held_out_r2" not in row or key.startswith((GREEDY, RACED_SLEB))
                else f"{row['held_out_r2']:.2f}",
            ]
        )
    head = "Cost of a fit (`>`: a ledger of an earlier run, whose seconds aren't known, supplied a part):"
    header = ["method", "masks", "layer runs x tokens, 10^6", "wall s", "CPU s", "held-out R2"]
    return f"{head}\n\n{markdown(header, body)}"


def compensation_table(results: Results, depths: list[int]) -> str:
    cells = [(key, [results.seconds_made(key, n) for n in depths]) for key in results.compensated]
    body = [[key, *map(number, seconds)] for key, seconds in cells if not np.isnan(seconds).all()]
    if not body:
        return ""
    head = "CPU seconds of a removal with its compensation, after the fit that chose the layers:"
    return f"{head}\n\n{markdown(['method', *removed(depths)], body)}"


def set_table(results: Results, depths: list[int]) -> str:
    body = [
        [key, *("-" if row["sets"].get(str(n)) is None else " ".join(map(str, row["sets"][str(n)])) for n in depths)]
        for key, row in results.fits.items()
        if row["sets"]
    ]
    return f"Layers removed:\n\n{markdown(['method', *removed(depths)], body)}"


def removed(depths: list[int]) -> list[str]:
    return [f"{n} removed" for n in depths]


def number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.2g}" if value >= 1e5 else f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def percent(mean: float, error: float = math.nan) -> str:
    if math.isnan(mean):
        return "-"
    return f"{100 * mean:.1f}" + ("" if math.isnan(error) else f" ± {100 * error:.1f}")


def bold(text: str, best: bool) -> str:
    return f"**{text}**" if best else text

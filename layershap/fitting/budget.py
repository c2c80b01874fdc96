"""A budget in layer runs x tokens, which is what time is spent on, split between masks and calibration tokens.

Shapes: S calibration sequences, T tokens in a sequence, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from numbers import Real
from typing import Any

import numpy as np

from layershap.calibration import Calibration, as_calibration
from layershap.fitting.masks import default_masks
from layershap.protocols import SearchingSelector, Selector
from layershap.tasks import Task

_SEARCH_SHARE = 2 / 3
"""Of the budget, where it can't pay for the search on all sequences; the rest is for the final choice on more."""


@dataclass(frozen=True)
class Spending:
    """How a budget is spent.

    Attributes
    ----------
    calib_data : Calibration, or whatever was given if there is no budget
        What the masks are evaluated on.
    max_layer_runs : float or None
        Layer runs on it, all that the budget allows.
    budget : float
        Layer runs x tokens in all.
    more : tuple of Calibration
        Further sequences for the final choice (`layershap.fitting.halving`), each part as long as all before it
        together.
    """

    calib_data: Any
    max_layer_runs: float | None = None
    budget: float = inf
    more: tuple[Calibration, ...] = ()


def mean_layer_runs(n_layers: int) -> float:
    """Layer runs that a mask takes on average when prefixes are shared: half of the layers is a safe guess."""
    return n_layers / 2


def spend(
    calib_data: Any, tokenizer: Any, budget: Any, selector: Selector, n_layers: int, max_remove: int | None
) -> Spending:
    """Split a budget. Masks come first, as many as `fit` would take without a budget.

    What remains buys sequences. If all of them are paid for, more masks; if not, a third of the budget is kept for
    the final choice among the best sets on further sequences. The sequences of a task belong together and stay whole.

    Parameters
    ----------
    calib_data, tokenizer
        As given to `LayerPruner.fit`.
    budget : float or None
        Layer runs x tokens; None sets no limit.
    selector : Selector
        Asked for the masks that it may need.
    n_layers : int
        L.
    max_remove : int, optional
        By default two thirds of the layers.

    Raises
    ------
    ValueError
        Not even the required masks on one sequence are affordable; the message says what each part needs.
    """
    if budget is None:
        return Spending(calib_data)
    if isinstance(budget, bool) or not isinstance(budget, Real) or not float(budget) > 0:
        raise ValueError(f"budget must be a positive number of layer runs x tokens, got {budget!r}")
    limit = float(budget)
    task = isinstance(calib_data, Task)
    calibration = calib_data.calibration if task else as_calibration(calib_data, tokenizer)
    most = -(-2 * n_layers // 3) if max_remove is None else max_remove
    required = max(selector.n_required(n_layers, most) if isinstance(selector, SearchingSelector) else 0, n_layers + 1)
    one_mask = mean_layer_runs(n_layers) * calibration.seq_len
    least = required * one_mask * (calibration.n_sequences if task else 1)
    if limit < least:
        raise ValueError(
            f"budget={budget:g} layer runs x tokens is too small: at least {required} masks are needed "
            f"({type(selector).__name__} for up to {most} of {n_layers} layers, leave-one-outs included), each of "
            f"about {mean_layer_runs(n_layers):g} layer runs, on {'the task' if task else 'one sequence'} of "
            f"{round(least / required / mean_layer_runs(n_layers))} tokens. The minimum is {least:g}; lower max_remove "
            "or seq_len, or raise it."
        )
    if task:
        return Spending(calib_data, limit / (calibration.n_sequences * calibration.seq_len), limit)
    n_masks = max(required, min(default_masks(selector, n_layers, most), int(limit // one_mask)))
    if int(limit // (n_masks * one_mask)) >= calibration.n_sequences:
        return Spending(calibration, limit / (calibration.n_sequences * calibration.seq_len), limit)
    halving = isinstance(selector, SearchingSelector)
    n_sequences = max(1, int((_SEARCH_SHARE if halving else 1.0) * limit // (n_masks * one_mask)))
    order = _nested_order(calibration.n_sequences)
    more = []
    start = n_sequences
    while halving and start < calibration.n_sequences:
        more.append(_part(calibration, order[start : 2 * start]))
        start *= 2
    searched = _part(calibration, order[:n_sequences])
    return Spending(searched, limit / (n_sequences * calibration.seq_len), limit, tuple(more))


def _nested_order(n_sequences: int) -> list[int]:
    """All sequences in an order of which every beginning is spread evenly over them (van der Corput's)."""
    bits = max(1, (n_sequences - 1).bit_length())
    return sorted(range(n_sequences), key=lambda index: int(f"{index:0{bits}b}"[::-1], 2))


def _part(calibration: Calibration, rows: Sequence[int]) -> Calibration:
    chosen = np.sort(np.array(rows))
    provenance = {**calibration.provenance, "sequences_given": calibration.n_sequences}
    return Calibration(calibration.ids_ST[chosen], calibration.labels_ST[chosen], provenance)

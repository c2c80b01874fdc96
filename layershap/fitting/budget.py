"""A budget in layer runs x tokens, which is what time is spent on, split between masks and calibration tokens.

Shapes: S calibration sequences, T tokens in a sequence, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from numbers import Integral, Real
from typing import Any, Literal, cast

import numpy as np

from layershap.calibration import Calibration, as_calibration
from layershap.fitting.masks import default_masks
from layershap.protocols import SearchingSelector, Selector
from layershap.tasks import Task

_SEARCH_SHARE = 2 / 3
"""Of the budget, where it can't pay for the search on all sequences; the rest is for the final choice on more."""

_LEAST_SEARCHED = 32
"""Sequences that a search has at least, where there are as many (docs/choosing.md)."""

SearchSequences = int | Literal["auto", "all"]


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
    calib_data: Any,
    tokenizer: Any,
    budget: Any,
    search_sequences: SearchSequences,
    selector: Selector,
    n_layers: int,
    max_remove: int | None,
) -> Spending:
    """Split the sequences between the search and the final choice among its best sets, and the budget if there is one.

    Without a budget, a search has `search_sequences`, the final choice the others. With one, masks come first, as many
    as `fit` would take without. What remains buys sequences. If all of them are paid for, more masks; if not, a third
    of the budget is kept for the final choice. The sequences of a task belong together and stay whole.

    Parameters
    ----------
    calib_data, tokenizer
        As given to `LayerPruner.fit`.
    budget : float or None
        Layer runs x tokens; None sets no limit.
    search_sequences : int, 'auto' or 'all'
        Looked at without a budget: 'auto' is half of the sequences, but at least 32.
    selector : Selector
        Asked for the masks that it may need.
    n_layers : int
        L.
    max_remove : int, optional
        By default two thirds of the layers.

    Raises
    ------
    ValueError
        `search_sequences` is none of these; or not even the required masks on one sequence are affordable: the message
        says what each part needs.
    """
    if budget is None:
        return _without_budget(calib_data, tokenizer, search_sequences, selector)
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
    searched, more = _doubling(calibration, n_sequences)
    return Spending(searched, limit / (n_sequences * calibration.seq_len), limit, more if halving else ())


def _without_budget(
    calib_data: Any, tokenizer: Any, search_sequences: SearchSequences, selector: Selector
) -> Spending:
    count = _checked_count(search_sequences)
    if count == "all" or isinstance(calib_data, Task) or not isinstance(selector, SearchingSelector):
        return Spending(calib_data)
    calibration = as_calibration(calib_data, tokenizer)
    n_sequences = max(_LEAST_SEARCHED, calibration.n_sequences // 2) if count == "auto" else count
    if n_sequences >= calibration.n_sequences:
        return Spending(calibration)
    searched, more = _doubling(calibration, n_sequences)
    return Spending(searched, more=more)


def _checked_count(search_sequences: Any) -> SearchSequences:
    if search_sequences == "auto" or search_sequences == "all":
        return cast(SearchSequences, search_sequences)
    if isinstance(search_sequences, bool) or not isinstance(search_sequences, Integral) or search_sequences < 1:
        raise ValueError(f"search_sequences must be a positive int, 'auto' or 'all', got {search_sequences!r}")
    return int(search_sequences)


def _doubling(calibration: Calibration, n_sequences: int) -> tuple[Calibration, tuple[Calibration, ...]]:
    """So many sequences, spread evenly over all, and the others in parts, each as long as all before it together."""
    order = _nested_order(calibration.n_sequences)
    starts = [n_sequences]
    while 2 * starts[-1] < calibration.n_sequences:
        starts.append(2 * starts[-1])
    more = tuple(_part(calibration, order[start : 2 * start]) for start in starts if start < calibration.n_sequences)
    return _part(calibration, order[:n_sequences]), more


def _nested_order(n_sequences: int) -> list[int]:
    """All sequences in an order of which every beginning is spread evenly over them (van der Corput's)."""
    bits = max(1, (n_sequences - 1).bit_length())
    return sorted(range(n_sequences), key=lambda index: int(f"{index:0{bits}b}"[::-1], 2))


def _part(calibration: Calibration, rows: Sequence[int]) -> Calibration:
    chosen = np.sort(np.array(rows))
    provenance = {**calibration.provenance, "sequences_given": calibration.n_sequences}
    return Calibration(calibration.ids_ST[chosen], calibration.labels_ST[chosen], provenance)

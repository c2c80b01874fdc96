"""A budget in layer runs x tokens, which is what time is spent on, split between masks and calibration tokens.

Shapes: S calibration sequences, T tokens in a sequence, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from numbers import Integral, Real
from typing import Any

import numpy as np

from layershap.calibration import Calibration, as_calibration
from layershap.fitting.masks import default_masks, resolved_max_remove
from layershap.fitting.record import mean_layer_runs
from layershap.protocols import IntArray, SearchingSelector, Selector
from layershap.tasks import Task
from layershap.utilities.mixture import tied_to_sequences

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


def spend(
    calib_data: Any,
    tokenizer: Any,
    utility: Any,
    budget: Any,
    search_sequences: Any,
    selector: Selector,
    n_layers: int,
    n_protected: int,
    max_remove: Any,
) -> Spending:
    """Split the sequences between the search and the final choice among its best sets, and the budget if there is one.

    Without a budget, a search has `search_sequences`, the final choice the others. With one, masks come first, as many
    as `fit` would take without. What remains buys sequences. If all of them are paid for, more masks; if not, a third
    of the budget is kept for the final choice. The sequences of a task, or of a utility that knows them by number,
    belong together and stay whole.

    Parameters
    ----------
    calib_data, tokenizer
        As given to `LayerPruner.fit`.
    utility : Utility, callable or None
        Asked whether its sequences belong together.
    budget : float or None
        Layer runs x tokens; None sets no limit.
    search_sequences : int or None
        Looked at without a budget; None is all.
    selector : Selector
        Asked for the masks that it may need.
    n_layers, n_protected : int
        L, and how many of them are never removed.
    max_remove : int, optional
        By default two thirds of the removable layers.

    Raises
    ------
    ValueError
        `search_sequences` isn't a positive int, or splits what belongs together; or not even the required masks on one
        sequence are affordable: the message says what each part needs.
    """
    whole = isinstance(calib_data, Task) or tied_to_sequences(utility)
    if budget is None:
        return _without_budget(calib_data, tokenizer, search_sequences, selector, whole)
    if search_sequences is not None:
        raise ValueError(f"a budget decides on the sequences itself; got search_sequences={search_sequences!r} with it")
    if isinstance(budget, bool) or not isinstance(budget, Real) or not 0 < float(budget) < inf:
        raise ValueError(f"budget must be a positive, finite number of layer runs x tokens, got {budget!r}")
    limit = float(budget)
    n_players = n_layers - n_protected
    most = resolved_max_remove(max_remove, n_players, n_layers)
    calibration = calib_data.calibration if isinstance(calib_data, Task) else as_calibration(calib_data, tokenizer)
    required = n_players + 1
    if isinstance(selector, SearchingSelector):
        required = max(required, selector.n_required(n_players, most))
    one_mask = mean_layer_runs(n_layers) * calibration.seq_len
    dense = n_layers * calibration.seq_len
    least = (required * one_mask + dense) * (calibration.n_sequences if whole else 1)
    if limit < least:
        raise ValueError(
            f"budget={limit:g} layer runs x tokens is too small: the model with all its {n_layers} layers and at least "
            f"{required} masks are needed ({type(selector).__name__} for up to {most} of {n_players} removable layers, "
            f"leave-one-outs included), each of about {mean_layer_runs(n_layers):g} layer runs, on "
            f"{f'all {calibration.n_sequences} sequences' if whole else 'one sequence'} of {calibration.seq_len} "
            f"tokens. The minimum is {least:g}; lower max_remove or seq_len, or raise it."
        )
    n_masks = max(required, min(default_masks(selector, n_players, most), int((limit - dense) // one_mask)))
    one_sequence = n_masks * one_mask + dense
    if whole or int(limit // one_sequence) >= calibration.n_sequences:
        kept = calib_data if isinstance(calib_data, Task) else calibration
        return Spending(kept, limit / (calibration.n_sequences * calibration.seq_len), limit)
    searches = isinstance(selector, SearchingSelector)
    n_sequences = max(1, int((_SEARCH_SHARE if searches else 1.0) * limit // one_sequence))
    searched, more = _doubling(calibration, n_sequences)
    return Spending(searched, limit / (n_sequences * calibration.seq_len), limit, more if searches else ())


def _without_budget(
    calib_data: Any, tokenizer: Any, search_sequences: Any, selector: Selector, whole: bool
) -> Spending:
    if search_sequences is None:
        return Spending(calib_data)
    if isinstance(search_sequences, bool) or not isinstance(search_sequences, Integral) or int(search_sequences) < 1:
        raise ValueError(f"search_sequences must be a positive int, or None for all, got {search_sequences!r}")
    if not isinstance(selector, SearchingSelector):
        return Spending(calib_data)
    if whole:
        raise ValueError(
            "the sequences of a task belong together, the search can't look at a part of them: leave search_sequences "
            f"at None, got {search_sequences!r}"
        )
    calibration = as_calibration(calib_data, tokenizer)
    if int(search_sequences) >= calibration.n_sequences:
        return Spending(calibration)
    searched, more = _doubling(calibration, int(search_sequences))
    return Spending(searched, more=more)


def _doubling(calibration: Calibration, n_sequences: int) -> tuple[Calibration, tuple[Calibration, ...]]:
    """So many sequences, drawn from all, and the others in parts, each as long as all before it together.

    The draw is the same for every `random_state`, so that a ledger serves them all. Sequences at even distances would
    be of one kind where kinds alternate (prompt and answer, two sources in turn).
    """
    order = np.random.default_rng(0).permutation(calibration.n_sequences)
    starts = [n_sequences]
    while 2 * starts[-1] < calibration.n_sequences:
        starts.append(2 * starts[-1])
    more = tuple(_part(calibration, order[start : 2 * start]) for start in starts if start < calibration.n_sequences)
    return _part(calibration, order[:n_sequences]), more


def _part(calibration: Calibration, rows: IntArray) -> Calibration:
    chosen = np.sort(rows)
    provenance = {**calibration.provenance, "sequences_given": calibration.n_sequences}
    return Calibration(calibration.ids_ST[chosen], calibration.labels_ST[chosen], provenance)

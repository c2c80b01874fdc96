"""A budget in layer runs x tokens, which is what time is spent on, split between masks and calibration tokens.

Shapes: S calibration sequences, T tokens in a sequence, L layers.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from layershap.calibration import Calibration, as_calibration
from layershap.protocols import SearchingSelector, Selector
from layershap.tasks import Task

ENOUGH_MASKS = 192
"""Masks beyond which more tokens help more than more masks (docs/choosing.md)."""


def mean_layer_runs(n_layers: int) -> float:
    """Layer runs that a mask takes on average when prefixes are shared: half of the layers is a safe guess."""
    return n_layers / 2


def within_budget(
    calib_data: Any, tokenizer: Any, budget: Any, selector: Selector, n_layers: int, max_remove: int | None
) -> tuple[Any, float | None]:
    """The calibration data that the budget pays for, and the layer runs on them; without a budget, all and no limit.

    The sequences of a task belong together and stay whole.
    """
    if budget is None:
        return calib_data, None
    if isinstance(calib_data, Task):
        whole = calib_data.calibration
        affordable(whole, budget, selector, n_layers, max_remove)
        return calib_data, budget / (whole.n_sequences * whole.seq_len)
    taken = affordable(as_calibration(calib_data, tokenizer), budget, selector, n_layers, max_remove)
    return taken, budget / (taken.n_sequences * taken.seq_len)


def affordable(
    calibration: Calibration, budget: Any, selector: Selector, n_layers: int, max_remove: int | None
) -> Calibration:
    """As many of the sequences, at even distances, as the budget can pay for enough masks on.

    Masks come first: what the search may need or `ENOUGH_MASKS`, whichever is more. What remains buys sequences; and
    if all sequences are paid for, more masks.

    Raises
    ------
    ValueError
        Not even the required masks on one sequence are affordable; the message says what each part needs.
    """
    if isinstance(budget, bool) or not isinstance(budget, Real) or not float(budget) > 0:
        raise ValueError(f"budget must be a positive number of layer runs x tokens, got {budget!r}")
    spendable = float(budget)
    most = -(-2 * n_layers // 3) if max_remove is None else max_remove
    required = max(selector.n_required(n_layers, most) if isinstance(selector, SearchingSelector) else 0, n_layers + 1)
    one_mask = mean_layer_runs(n_layers) * calibration.seq_len
    if spendable < required * one_mask:
        raise ValueError(
            f"budget={budget:g} layer runs x tokens is too small: at least {required} masks are needed "
            f"({type(selector).__name__} for up to {most} of {n_layers} layers, leave-one-outs included), each "
            f"of about {mean_layer_runs(n_layers):g} layer runs, on one sequence of {calibration.seq_len} tokens. "
            f"The minimum is {required * one_mask:g}; lower max_remove or seq_len, or raise it."
        )
    n_masks = max(required, min(ENOUGH_MASKS, int(spendable // one_mask)))
    n_sequences = min(calibration.n_sequences, int(spendable // (n_masks * one_mask)))
    if n_sequences == calibration.n_sequences:
        return calibration
    rows = np.arange(n_sequences) * calibration.n_sequences // n_sequences
    provenance = {**calibration.provenance, "sequences_given": calibration.n_sequences}
    return Calibration(calibration.ids_ST[rows], calibration.labels_ST[rows], provenance)

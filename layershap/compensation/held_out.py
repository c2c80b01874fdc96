"""Calibration text in two parts: what a compensation is fitted to, and what it is judged by.

Shapes: S sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch

from layershap.calibration import Calibration
from layershap.compensation.protocol import CompensationRecord, WeightChange


class SplitText(NamedTuple):
    """Calibration text in two parts, of which the records of all compensations tell alike.

    Attributes
    ----------
    fitted : Calibration
        The sequences to fit to.
    held_out : Calibration
        The sequences to judge by.
    """

    fitted: Calibration
    held_out: Calibration

    @property
    def n_fitted_tokens(self) -> int:
        """Number of tokens to fit to, without padding."""
        return int(self.fitted.lengths_S.sum())

    def record(
        self,
        compensation: object,
        removed: tuple[int, ...],
        changes: Sequence[WeightChange],
        losses: tuple[float, float],
        notes: tuple[str, ...] = (),
    ) -> CompensationRecord:
        """The record of what a compensation did on this text; `losses` are those before and after."""
        return CompensationRecord(
            method=type(compensation).__name__,
            removed=removed,
            changes=tuple(changes),
            loss_before=losses[0],
            loss_after=losses[1],
            n_tokens=self.n_fitted_tokens,
            n_held_out=int(self.held_out.lengths_S.sum()),
            text=self.held_out.provenance,
            notes=notes,
        )


def split(calibration: Calibration, held_out: Any) -> SplitText:
    """The sequences to fit to and those held out.

    Those held out lie at even distances, so that each kind of text of a mixture gives its share. Sequences of which no
    token counts are in neither part.

    Raises
    ------
    ValueError
        A single sequence with tokens that count, or a share outside (0, 1).
    """
    if isinstance(held_out, bool) or not isinstance(held_out, Real) or not 0 < float(held_out) < 1:
        raise ValueError(f"held_out must be a share of the sequences between 0 and 1, got {held_out!r}")
    # Where no token counts, there is nothing to fit or to judge.
    scored = np.flatnonzero(calibration.counts_S.cpu().numpy())
    n_sequences = len(scored)
    if n_sequences < 2:
        raise ValueError(
            f"a compensation is fitted to some sequences and judged by others, so it needs two at least; got "
            f"{n_sequences}. Give more text, or cut it into shorter sequences (seq_len)"
        )
    n_held = min(max(1, round(n_sequences * float(held_out))), n_sequences - 1)
    held = np.zeros(n_sequences, dtype=bool)
    held[np.linspace(0, n_sequences - 1, n_held + 2)[1:-1].round().astype(int)] = True
    return SplitText(*(calibration.take(torch.from_numpy(scored[part])) for part in (~held, held)))

"""Calibration text in two parts: what a compensation is fitted to, and what it is judged by.

Shapes: S sequences.
"""

from __future__ import annotations

import torch

from layershap.calibration import Calibration


def split(calibration: Calibration, held_out: float) -> tuple[Calibration, Calibration]:
    """The sequences to fit to and those held out.

    Those held out lie at even distances, so that each kind of text of a mixture gives its share.

    Raises
    ------
    ValueError
        A single sequence, or a share outside (0, 1).
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must be a share of the sequences between 0 and 1, got {held_out!r}")
    n_sequences = calibration.n_sequences
    if n_sequences < 2:
        raise ValueError(
            f"a compensation is fitted to some sequences and judged by others, so it needs two at least; got "
            f"{n_sequences}. Give more text, or cut it into shorter sequences (seq_len)"
        )
    n_held = min(max(1, round(n_sequences * held_out)), n_sequences - 1)
    held = torch.zeros(n_sequences, dtype=torch.bool)
    held[torch.linspace(0, n_sequences - 1, n_held + 2)[1:-1].round().long()] = True
    return _rows(calibration, ~held), _rows(calibration, held)


def _rows(calibration: Calibration, rows: torch.Tensor) -> Calibration:
    return Calibration(calibration.ids_ST[rows], calibration.labels_ST[rows], calibration.provenance)

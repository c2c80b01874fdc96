"""Models compensated for removed layers, and the loss that they are judged by."""

from __future__ import annotations

import warnings

import torch

from layershap import Calibration, remove_layers
from layershap.exceptions import CalibrationWarning
from layershap.forward.unmasked import sequence_statistics

REMOVED = [2, 5, 6, 9]


def loss(model, calibration):
    found = sequence_statistics(model, calibration, ("nll",))
    return float(found.sums["nll"].sum() / found.counts.sum())


def compensated(model, compensation, calibration, removed=REMOVED):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        return remove_layers(model, removed, compensation=compensation, calibration=calibration)


def random_text(model, n_sequences=8):
    """Sequences of 24 random tokens of a tiny model's vocabulary."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(8, model.config.vocab_size, (n_sequences, 24), generator=generator)
    return Calibration(ids, ids.clone())

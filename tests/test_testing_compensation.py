"""`CompensationContract` finds what a compensation does wrong, and names it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from layershap.compensation import Rescale
from layershap.testing import check_compensation


class Flatters(Rescale):
    def apply(self, pruned, stack, measured):
        record = super().apply(pruned, stack, measured)
        return dataclasses.replace(record, changes=(), loss_after=1.0)


class KeepsTheModel(Rescale):
    def measure(self, removal):
        return removal, super().measure(removal)

    def apply(self, pruned, stack, measured):
        return super().apply(pruned, stack, measured[1])


class ChangesTheModel(Rescale):
    def measure(self, removal):
        removal.stack.layers[1].mlp.c_proj.bias.data.add_(1.0)
        return super().measure(removal)


class OneScale(Rescale):
    def skip_scales(self, model, stack, calibration):
        return np.array([1.1])


class OtherScales(Rescale):
    def skip_scales(self, model, stack, calibration):
        return np.random.default_rng().uniform(1, 2, len(stack))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Flatters(), "must record as loss_after the loss of the model on some of the calibration sequences"),
        (KeepsTheModel(), "measure must not keep the model"),
        (ChangesTheModel(), "must leave the model that it measures as it is"),
        (OneScale(), "skip_scales must return one positive number for each of the 12 layers"),
        (OtherScales(), "skip_scales must return the same again"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Rescale) else "",
)
def test_broken_contracts_are_named(part, message):
    with pytest.raises(AssertionError, match=message):
        check_compensation(part)

"""What a removal does with a compensation: check, measure before, change afterwards, keep the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from layershap.calibration import Calibration
from layershap.calibration.readable import check_readable
from layershap.compensation.protocol import (
    Compensation,
    CompensationRecord,
    RefusesEarly,
    Removal,
    ScalesSkippedLayers,
    record_from,
)
from layershap.exceptions import UnsupportedModelError
from layershap.forward.settings import any_offloaded
from layershap.inputs import refuse_inputs
from layershap.model.io import base_model, holds_adapters
from layershap.model.skeleton import on_meta_device, refuse_skeleton
from layershap.model.stack import LayerStack, find_layers
from layershap.model.sublayers import Players
from layershap.protocols import FloatArray

_ATTRIBUTE = "_layershap_compensation"
CONFIG_FIELD = "layershap_compensation"
"""Field of a config that holds what was done to the weights."""


@dataclass(frozen=True)
class Compensating:
    """A compensation with the text that it is measured on.

    Attributes
    ----------
    compensation : Compensation
        The method.
    calibration : Calibration or None
        The text.
    """

    compensation: Compensation
    calibration: Calibration | None

    def check(self, model: nn.Module, players: Players) -> None:
        """Refuse, before layers are chosen, what `measure` would refuse for any of them.

        The layers of a model on the meta device can't be looked at: there the compensation itself isn't asked.

        Raises
        ------
        TypeError, ValueError, UnsupportedModelError
            As `measure`.
        """
        stack, calibration = self._checked(model, players)
        if isinstance(self.compensation, RefusesEarly) and not on_meta_device(model):
            self.compensation.check(model, stack, calibration)

    def measure(self, model: nn.Module, players: Players, removed: Sequence[int]) -> Any:
        """Measure the model before the layers go.

        Raises
        ------
        TypeError, ValueError
            No compensation, no calibration, one that doesn't fit the model, or a model that was compensated before.
        UnsupportedModelError
            The compensation can't serve this model, or these are sublayers.
        """
        stack, calibration = self._checked(model, players)
        refuse_skeleton(model, "no compensation can be measured on it")
        return self.compensation.measure(Removal(model, stack, tuple(removed), calibration))

    def _checked(self, model: nn.Module, players: Players) -> tuple[LayerStack, Calibration]:
        """The layers and the text, which fit the model and each other."""
        check_compensation(self.compensation)
        if not isinstance(self.calibration, Calibration):
            raise ValueError(
                "a compensation is measured on text: give calibration=Calibration.from_texts(texts, tokenizer), or "
                f"Calibration(ids, ids) of token ids [S, T]; got {type(self.calibration).__name__}"
            )
        check_whole_layers(self.compensation, players)
        assert isinstance(players, LayerStack)
        before = compensation_of(model)
        if before is not None:
            raise ValueError(
                f"this model was compensated before ({before}), so its states are no longer those of the model that "
                "was pruned first: name all layers in one removal from that model"
            )
        if holds_adapters(model):
            raise UnsupportedModelError(
                "a compensation changes weights that adapters add to; merge them first (merge_and_unload)"
            )
        if any_offloaded(players):
            raise UnsupportedModelError(
                "a compensation changes weights in place, and some of this model's layers are offloaded; load the "
                "model whole (on a CPU, say), or onto several devices"
            )
        refuse_inputs(self.calibration.inputs, "a compensation")
        check_readable(model, self.calibration)
        return players, self.calibration

    def apply(self, pruned: nn.Module, layers: Sequence[nn.Module], measured: Any) -> CompensationRecord:
        """Change the weights of the pruned model, whose `layers` are those that stayed, and keep the record on it."""
        stack = find_layers(pruned, layers, causal=False)
        record = self.compensation.apply(pruned, stack, measured)
        if not isinstance(record, CompensationRecord):
            raise TypeError(
                f"{type(self.compensation).__name__}.apply must return a CompensationRecord, got {record!r}"
            )
        base = base_model(pruned)
        setattr(base, _ATTRIBUTE, record)
        if hasattr(base, "config") and record.changes:
            # A checkpoint says what was done to it, not whose text that was.
            setattr(base.config, CONFIG_FIELD, asdict(replace(record, text={})))
        return record


def is_compensation(value: object) -> bool:
    """Whether a value has the methods of a compensation; a class doesn't, though its instances may."""
    return isinstance(value, Compensation) and not isinstance(value, type)


def check_compensation(compensation: object) -> None:
    """Raise a TypeError unless it is None or has the methods of a compensation."""
    if compensation is not None and not is_compensation(compensation):
        raise TypeError(
            "a compensation must be an object with the methods measure and apply, such as "
            f"layershap.compensation.LinearRefit(); got {compensation!r}"
        )


def check_whole_layers(compensation: object, players: Players) -> None:
    """Raise a ValueError if sublayers are to be removed and compensated."""
    if compensation is not None and not isinstance(players, LayerStack):
        raise ValueError("a compensation makes up for whole layers, these players are sublayers; remove layers")


def compensation_record(model: nn.Module) -> CompensationRecord | None:
    """What a compensation did to a model, also before it was saved and loaded; None if nothing."""
    base = base_model(model)
    record = vars(base).get(_ATTRIBUTE)
    if record is not None:
        return record
    stored = getattr(getattr(base, "config", None), CONFIG_FIELD, None)
    try:
        return record_from(stored) if isinstance(stored, dict) else None
    except (KeyError, TypeError):  # of another version of this library, or edited: that it is there still tells
        return None


def compensation_of(model: nn.Module) -> str | None:
    """Name of the compensation that changed a model's weights, also before it was saved and loaded; None if none."""
    record = compensation_record(model)
    if record is not None:
        return record.method if record.changes else None
    stored = getattr(getattr(base_model(model), "config", None), CONFIG_FIELD, None)
    return str(stored.get("method")) if isinstance(stored, dict) else stored


def forget_record(pruned: nn.Module) -> None:
    """Keep only the method's name on a model that more layers go from: the record is of the model before."""
    method, base = compensation_of(pruned), base_model(pruned)
    vars(base).pop(_ATTRIBUTE, None)
    if method is not None and hasattr(base, "config"):
        setattr(base.config, CONFIG_FIELD, method)


def skip_scales_of(
    compensation: object, model: nn.Module, players: Players, calibration: Calibration
) -> FloatArray | None:
    """What skipped layers multiply the states by [L] while a game is played; None if as they are.

    None for a model on the meta device too, which can't be scored: the cost of a game doesn't depend on the scales.

    Raises
    ------
    ValueError
        These are sublayers, which no compensation serves; or the scales aren't a finite number for each layer.
    """
    check_whole_layers(compensation, players)
    if not isinstance(compensation, ScalesSkippedLayers) or not isinstance(players, LayerStack):
        return None
    if on_meta_device(model):
        return None
    scales = compensation.skip_scales(model, players, calibration)
    if scales is None:
        return None
    found = np.asarray(scales)
    if found.shape != (len(players),) or found.dtype.kind not in "iuf" or not np.isfinite(found).all():
        raise ValueError(
            f"{type(compensation).__name__}.skip_scales must return one finite number for each of the {len(players)} "
            f"layers, or None; got {scales!r}"
        )
    return found

"""Speed without some layers, measured on physically pruned models, and estimated between the depths measured."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from layershap.environment import Environment
from layershap.exceptions import CheckpointWarning, UncheckedInputWarning
from layershap.model.skeleton import refuse_skeleton
from layershap.model.sublayers import Players
from layershap.speed import SpeedRecord, measure_speed
from layershap.surgery import remove_players


@dataclass(frozen=True)
class RemovalSpeed:
    """Prefill and decode at some depths, measured, and estimates for all others.

    Between two measured depths the time is taken to fall evenly, which is right where layers are alike; beyond them, to
    fall as it does from the first to the last one measured.

    Attributes
    ----------
    depths : tuple of int
        Numbers of layers removed in the physically pruned models that were measured, ascending; 0 is the whole model.
    records : tuple of SpeedRecord
        What was measured, one for each depth, all at one batch size and length.
    environment : Environment
        Versions and machine of the measurement.
    """

    depths: tuple[int, ...]
    records: tuple[SpeedRecord, ...]
    environment: Environment

    def seconds(self, phase: str, n_remove: int) -> float | None:
        """Seconds of a prefill, or of one decoded token, without `n_remove` layers; None where there is no rate.

        The `phase` is "prefill" or "decode". What was measured is returned as it is.
        """
        times = [record.prefill_seconds if phase == "prefill" else record.decode_seconds for record in self.records]
        known = [(n, time) for n, time in zip(self.depths, times, strict=True) if time is not None and time > 0]
        if not known:
            return None
        depths, values = (np.array(column, dtype=float) for column in zip(*known, strict=True))
        if depths[0] <= n_remove <= depths[-1]:
            return float(np.interp(n_remove, depths, values))
        if len(known) < 2:
            return None
        slope = (values[-1] - values[0]) / (depths[-1] - depths[0])
        end = 0 if n_remove < depths[0] else -1
        estimate = float(values[end] + slope * (n_remove - depths[end]))
        return estimate if estimate > 0 else None

    def note(self) -> str:
        """Where and at which sizes it was measured, and what is an estimate."""
        first = self.records[0]
        return (
            f"Speed: on {self.environment.device}, threads: {self.environment.threads}, batch {first.batch_size}, "
            f"{first.prompt_tokens} prompt tokens, {first.new_tokens} new ones; medians, measured on physically pruned "
            f"models without {', '.join(map(str, self.depths))} layers, others estimated by a straight line between."
        )


def measure_removals(
    model: nn.Module,
    players: Players,
    sets: Sequence[Sequence[int]],
    *,
    batch_size: int = 1,
    prompt_tokens: int | None = None,
    new_tokens: int | None = None,
    repeats: int = 5,
) -> list[SpeedRecord]:
    """Time a model without each of some sets of layers, in turns.

    What is timed is physically pruned, but shares the weights of `model`: it takes no memory beside.

    Parameters
    ----------
    model : nn.Module
        The whole model; left as it is.
    players : LayerStack or SublayerStack
        Its layers, or sublayers.
    sets : sequence of sequences of int
        Layers to do without; an empty one is the model itself.
    batch_size, prompt_tokens, new_tokens, repeats
        As in `layershap.report.measure_speed`.

    Raises
    ------
    UnsupportedModelError
        The model is on the meta device.
    """
    refuse_skeleton(model, "its speed can't be measured")
    models = [pruned_view(model, players, layers) if len(layers) else model for layers in sets]
    found = measure_speed(
        models,
        batch_sizes=(batch_size,),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
    )
    return [record for (record,) in found]


def pruned_view(model: nn.Module, players: Players, layers: Sequence[int]) -> nn.Module:
    """A physically pruned model whose weights are those of `model` itself: only to be run, unchecked."""
    with warnings.catch_warnings():
        # Of a model that is neither kept nor saved.
        warnings.simplefilter("ignore", CheckpointWarning)
        warnings.simplefilter("ignore", UncheckedInputWarning)
        return remove_players(model, layers, players, check=False, share=True)

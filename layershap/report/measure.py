"""A pruned model measured beside the model it was made from: size, quality, speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from layershap.report.environment import current_environment
from layershap.report.records import ModelRecord, PruningOutcome, QualityRecord
from layershap.report.speed import measure_speed
from layershap.stack import LayersArgument, find_layers


def measure_outcome(
    model: nn.Module,
    pruned: nn.Module,
    removed: Sequence[int],
    quality: tuple[tuple[QualityRecord, ...], tuple[QualityRecord, ...]] = ((), ()),
    *,
    batch_sizes: Sequence[int] = (1, 8),
    prompt_tokens: int = 128,
    new_tokens: int = 32,
    repeats: int = 5,
    layers: LayersArgument = None,
) -> PruningOutcome:
    """Size and speed of both models, beside the quality given.

    Parameters
    ----------
    model, pruned : nn.Module
        Before and after.
    removed : sequence of int
        Which layers of `model` are missing in `pruned`.
    quality : pair of tuple of QualityRecord
        Of the model before and after.
    batch_sizes : sequence of int, default=(1, 8)
        For the speed; none measures no speed.
    prompt_tokens, new_tokens, repeats : int
        See `layershap.report.measure_speed`.
    layers : str or sequence of nn.Module, optional
        Where the layers are, if the rule can't know.
    """
    speeds = measure_speed(
        (model, pruned),
        batch_sizes=batch_sizes,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
    )
    before, after = (model_record(each, layers, quality[i], speeds[i]) for i, each in enumerate((model, pruned)))
    if before.n_layers - after.n_layers != len(removed):
        raise ValueError(
            f"pruned must have {before.n_layers - len(removed)} layers, the model's {before.n_layers} less the "
            f"{len(removed)} removed; it has {after.n_layers}. Are model and pruned in this order?"
        )
    return PruningOutcome(tuple(sorted(removed)), before, after, current_environment(pruned))


def model_record(
    model: nn.Module, layers: LayersArgument, quality: tuple[QualityRecord, ...], speed: Any
) -> ModelRecord:
    """Size of a model, with what was measured of it."""
    parameters = list(model.parameters())
    return ModelRecord(
        n_layers=len(find_layers(model, layers)),
        n_parameters=sum(p.numel() for p in parameters),
        n_bytes=sum(p.numel() * p.element_size() for p in parameters),
        quality=quality,
        speed=speed,
    )

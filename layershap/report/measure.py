"""A pruned model measured beside the model it was made from: size, quality, speed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from layershap.compensation import CompensationRecord, compensation_of, compensation_record
from layershap.environment import current_environment
from layershap.model.stack import LayersArgument, LayerStack, find_layers
from layershap.report.outcome import GenerationRecord, ModelRecord, PruningOutcome
from layershap.scoring.evaluate import Score
from layershap.speed import SpeedRecord, measure_speed


def measure_outcome(
    model: nn.Module,
    pruned: nn.Module,
    *,
    removed: Sequence[int] | None = None,
    scores: tuple[tuple[Score, ...], tuple[Score, ...]] = ((), ()),
    batch_sizes: Sequence[int] = (1, 8),
    prompt_tokens: int | None = None,
    new_tokens: int | None = None,
    repeats: int = 5,
    layers: LayersArgument = None,
    generation: GenerationRecord | None = None,
) -> PruningOutcome:
    """Size and speed of both models, beside the scores given.

    Parameters
    ----------
    model, pruned : nn.Module
        The models before and after pruning.
    removed : sequence of int, optional
        Layers of `model` that are missing in `pruned`. By default those that its compensation's record names, or
        they are found from the weights.
    scores : pair of tuple of Score
        Scores of the model before and after (`layershap.evaluate`).
    batch_sizes : sequence of int, default=(1, 8)
        Batch sizes at which speed is measured; an empty sequence measures no speed.
    prompt_tokens, new_tokens, repeats
        See `layershap.report.measure_speed`.
    layers : str or sequence of nn.Module, optional
        Where the layers are, if the rule can't know.
    generation : GenerationRecord, optional
        Answers of both models, whose scores are among `scores`.

    Returns
    -------
    PruningOutcome
        Both models as measured.

    Raises
    ------
    ValueError
        The layers of `pruned` are not those of `model` less the removed ones.
    """
    whole, rest = (find_layers(each, layers) for each in (model, pruned))
    if removed is not None:
        missing: tuple[int, ...] | None = tuple(sorted(removed))
    else:
        missing = compensated_removal(pruned, len(whole) - len(rest)) or removed_between(whole, rest)
    if missing is None:
        raise ValueError(
            "can't tell which layers of model are missing in pruned, since the weights of those that stay differ "
            "(trained, quantised or compensated since?). Name them: removed=[...]. Are model and pruned in this order?"
        )
    sizes = [sum(p.numel() for p in each.parameters()) for each in (model, pruned)]
    if sizes[0] <= sizes[1]:
        raise ValueError(
            f"pruned must have fewer parameters than model's {sizes[0]:,}, it has {sizes[1]:,}. Are they in this order?"
        )
    speeds = measure_speed(
        (model, pruned),
        batch_sizes=batch_sizes,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
    )
    before, after = (
        _record(each, len(stack), scores[i], speeds[i])
        for i, (each, stack) in enumerate(((model, whole), (pruned, rest)))
    )
    changed = compensation_between(model, pruned)
    return PruningOutcome(missing, before, after, current_environment(pruned), changed, generation)


def compensation_between(model: nn.Module, pruned: nn.Module) -> CompensationRecord | None:
    """What a compensation changed in `pruned` since it was pruned from `model`; None if nothing."""
    # What `model` had too is no change since.
    return None if compensation_of(model) is not None else compensation_record(pruned)


def compensated_removal(pruned: nn.Module, n_removed: int) -> tuple[int, ...] | None:
    """The layers that the record of a pruned model's compensation names, if they are all that it lacks.

    A compensation changes weights, by which else the missing layers are found.
    """
    record = compensation_record(pruned)
    return None if record is None or len(record.removed) != n_removed else record.removed


def removed_between(whole: LayerStack, rest: LayerStack) -> tuple[int, ...] | None:
    """Layers of `whole` that `rest` lacks, by comparing weights; None if its layers are not among those of `whole`."""
    left = list(rest.layers)
    missing = []
    for index, layer in enumerate(whole.layers):
        if left and same_weights(layer, left[0]):
            left.pop(0)
        else:
            missing.append(index)
    return tuple(missing) if not left else None


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have the same parameters, by name and value."""
    first, second = dict(one.named_parameters()), dict(other.named_parameters())
    return first.keys() == second.keys() and all(
        value.shape == second[name].shape and torch.equal(value, second[name].to(value.device))
        for name, value in first.items()
    )


def _record(model: nn.Module, n_layers: int, scores: tuple[Score, ...], speed: tuple[SpeedRecord, ...]) -> ModelRecord:
    parameters = list(model.parameters())
    return ModelRecord(
        n_layers=n_layers,
        n_parameters=sum(p.numel() for p in parameters),
        n_bytes=sum(p.numel() * p.element_size() for p in parameters),
        scores=scores,
        speed=speed,
    )

"""What a report holds of models that were measured, before and after pruning; plain numbers, like `records`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layershap.compensation import CompensationRecord
from layershap.environment import Environment
from layershap.scoring.evaluate import Score
from layershap.speed import SpeedRecord


@dataclass(frozen=True)
class ModelRecord:
    """Measured size, scores and speed of one model.

    Attributes
    ----------
    n_layers, n_parameters, n_bytes : int
        Size of the model; shared parameters count once.
    scores : tuple of Score
        Perplexities, task scores and scores of answers, each with its protocol (`layershap.evaluate`).
    speed : tuple of SpeedRecord
        One record per batch size.
    """

    n_layers: int
    n_parameters: int
    n_bytes: int
    scores: tuple[Score, ...] = ()
    speed: tuple[SpeedRecord, ...] = ()


@dataclass(frozen=True)
class ExampleRecord:
    """What both models answer to one prompt, as text; long ones are cut.

    Attributes
    ----------
    prompt, before, after : str
        The prompt (of a long one the end), and the models' answers (of long ones the beginnings).
    """

    prompt: str
    before: str
    after: str


@dataclass(frozen=True)
class GenerationRecord:
    """Greedy answers of both models to the same prompts; their scores are among the models' scores.

    Attributes
    ----------
    max_new_tokens : int
        Number of tokens of an answer, at most.
    provenance : dict
        Number of prompts, tokenizer, chat template.
    lengths : tuple of int
        For each prompt, the number of tokens of the dense model's answer.
    equal_starts : tuple of int
        For each prompt, the number of tokens before the pruned model's answer differs from it.
    examples : tuple of ExampleRecord
        The first prompts with both answers; none where no tokenizer was given.
    """

    max_new_tokens: int
    provenance: dict[str, Any]
    lengths: tuple[int, ...]
    equal_starts: tuple[int, ...]
    examples: tuple[ExampleRecord, ...]


@dataclass(frozen=True)
class PruningOutcome:
    """A pruned model beside the model it was made from.

    Attributes
    ----------
    removed : tuple of int
        Indices of the report's layers that were removed.
    before, after : ModelRecord
        The two models, measured in turns on the same machine.
    environment : Environment
        Versions and machine of the measurement.
    compensation : CompensationRecord or None
        What was changed in the kept layers to make up for the removed ones; None if nothing was.
    generation : GenerationRecord or None
        What both models answered to prompts; None if they were given none.
    """

    removed: tuple[int, ...]
    before: ModelRecord
    after: ModelRecord
    environment: Environment
    compensation: CompensationRecord | None = None
    generation: GenerationRecord | None = None

"""Scores of a model and of the model pruned from it, on the same texts, tasks and prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from layershap.calibration import resolve_protocol
from layershap.calibration.sources import read_texts
from layershap.exceptions import GenerationWarning
from layershap.report.outcome import ExampleRecord, GenerationRecord
from layershap.scoring.collapse import collapse
from layershap.scoring.evaluate import Score, Texts, evaluate
from layershap.scoring.generation import GenerationCheck, equal_start, generation_scores, text_of
from layershap.warning import warn_user

_EXAMPLES, _CHARACTERS = 3, 200


@dataclass(frozen=True)
class Figures:
    """Scores before and after pruning, and what both models answered."""

    before: tuple[Score, ...] = ()
    after: tuple[Score, ...] = ()
    generation: GenerationRecord | None = None


def scores_of_both(
    model: nn.Module,
    pruned: nn.Module,
    tokenizer: Any,
    *,
    texts: Texts | Mapping[str, Texts] | None,
    tasks: Sequence[Any],
    protocol: str,
    n_sequences: int | None,
    limit: int | None,
    generation: Any,
    max_new_tokens: int,
) -> Figures:
    """Score both models.

    The parameters are those of `layershap.evaluate`; prompts are answered by `model` first.

    Warns
    -----
    GenerationWarning
        The answers of `pruned` have collapsed, whatever its perplexity says.
    """
    check = generation
    if generation is not None and not isinstance(generation, GenerationCheck):
        check = GenerationCheck.from_model(model, generation, tokenizer, max_new_tokens=max_new_tokens)
    scores: list[tuple[Score, ...]] = [(), ()]
    if texts is not None or tasks:
        n_tokens = None if n_sequences is None else n_sequences * resolve_protocol(protocol).seq_len
        kept = None if texts is None else _kept_texts(texts, n_tokens)
        scores = [
            evaluate(
                each, tokenizer, texts=kept, tasks=tasks, protocol=protocol, n_sequences=n_sequences, limit=limit
            ).scores
            for each in (model, pruned)
        ]
    if check is None:
        return Figures(scores[0], scores[1])
    answers = check.answers_of(pruned)
    before = (*scores[0], *generation_scores(model, check, tokenizer, answers=check.answers))
    after = (*scores[1], *generation_scores(pruned, check, tokenizer, answers=answers))
    warning = collapse(before, after)
    if warning:
        warn_user(warning.removeprefix("Warning: "), GenerationWarning)
    record = GenerationRecord(
        max_new_tokens=check.max_new_tokens,
        provenance=check.provenance,
        lengths=tuple(map(len, check.answers)),
        equal_starts=tuple(equal_start(new, old) for new, old in zip(answers, check.answers, strict=True)),
        examples=() if tokenizer is None else _examples(check, answers, tokenizer),
    )
    return Figures(before, after, record)


def _examples(check: GenerationCheck, answers: Sequence[tuple[int, ...]], tokenizer: Any) -> tuple[ExampleRecord, ...]:
    rows = list(zip(check.prompts, check.answers, answers, strict=True))[:_EXAMPLES]
    return tuple(
        ExampleRecord(
            # Without its special tokens a rendered chat runs roles and messages together.
            prompt=_end(prompt.words or text_of(prompt.ids, tokenizer)),
            before=_beginning(text_of(old, tokenizer)),
            after=_beginning(text_of(new, tokenizer)),
        )
        for prompt, old, new in rows
    )


def _beginning(text: str) -> str:
    return text if len(text) <= _CHARACTERS else text[:_CHARACTERS] + " ..."


def _end(text: str) -> str:
    return text if len(text) <= _CHARACTERS else "... " + text[-_CHARACTERS:]


def _kept_texts(texts: Texts | Mapping[str, Texts], n_tokens: int | None) -> dict[str, list[str]]:
    """Texts that two models can be measured on, though they may be streams, by name."""
    named = texts if isinstance(texts, Mapping) else {"text": texts}
    return {name: read_texts(part, n_tokens)[0] for name, part in named.items()}

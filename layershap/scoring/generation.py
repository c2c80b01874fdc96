"""What a model answers, beside what the dense model answers: greedy continuations of prompts.

Removing a layer or two can leave perplexity and multiple choice alone and break long answers, in which the model reads
what it has written itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from layershap.calibration.answers import answered, greedy_answers
from layershap.calibration.prompts import Prompt, prompts_provenance, read_prompts
from layershap.calibration.sources import text_tokenizer
from layershap.forward.unmasked import sequence_statistics
from layershap.model.greedy import Tokens, greedy_continuations, stop_tokens
from layershap.scoring.scores import Score

TASK = "generation"
"""What scores of continuations are of."""

_GRAM = 4


@dataclass(frozen=True)
class GenerationCheck:
    """Prompts, and the dense model's greedy answers to them, with which other models' answers are compared.

    ``evaluate(small, tokenizer, generation=check)`` gives the scores. Nothing is sampled: the same model gives the
    same answers to the same check, token for token. Among other prompts an answer may differ where the two likeliest
    tokens are equal to rounding.

    Attributes
    ----------
    prompts : tuple of Prompt
        Token ids, with the right answer where the row had one.
    answers : tuple of tuple of int
        The dense model's new tokens after each prompt.
    max_new_tokens : int
        Number of tokens of an answer, at most.
    stop : frozenset of int
        Tokens that end an answer, as its last.
    provenance : dict
        Number of prompts, tokenizer, chat template, class of the dense model.
    """

    prompts: tuple[Prompt, ...]
    answers: tuple[Tokens, ...]
    max_new_tokens: int
    stop: frozenset[int]
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_model(
        cls, model: nn.Module, prompts: Any, tokenizer: Any = None, *, max_new_tokens: int = 64
    ) -> GenerationCheck:
        """Let the dense model answer.

        Parameters
        ----------
        model : nn.Module
            The model with all its layers.
        prompts : str, iterable, datasets.Dataset, mapping or Tensor [S, T]
            Texts, which are continued as they stand, without a chat template; chats, which are answered; rows with
            'prompt', 'text' or 'messages', and with the right 'answer' or without; or token ids, padded on either side
            or not. What a chat model is to be asked is a chat, ``[{"role": "user", "content": question}]``.
        tokenizer : PreTrainedTokenizerBase, optional
            The models' tokenizer, which all but token ids need.
        max_new_tokens : int, default=64
            Number of tokens of an answer, at most. What breaks in long answers is seen in long ones only.

        Raises
        ------
        ValueError
            No prompts, chats without a chat template, or prompt and answer longer than the model's positions.
        TypeError
            Not prompts.

        Warns
        -----
        PromptWarning
            The tokenizer has a chat template, and at least a quarter of the answers to plain texts are empty.

        Examples
        --------
        >>> from layershap import GenerationCheck, evaluate, remove_layers
        >>> from layershap.datasets import load_tiny_gpt2
        >>> model, tokenizer = load_tiny_gpt2()
        >>> check = GenerationCheck.from_model(model, ["The ship sailed"], tokenizer, max_new_tokens=8)
        >>> evaluate(model, tokenizer, generation=check)["generation", "equal_tokens"].value
        1.0
        """
        found = read_prompts(prompts, tokenizer)
        stop = stop_tokens(model, tokenizer)
        answers = greedy_answers(model, found, tokenizer, max_new_tokens=max_new_tokens, stop=stop)
        provenance = {**prompts_provenance(found, tokenizer), "answered_by": type(model).__name__}
        return cls(found, answers, max_new_tokens, stop, provenance)

    def answers_of(self, model: nn.Module) -> tuple[Tokens, ...]:
        """Greedy answers of `model` to the same prompts, under the same limits."""
        ids = [prompt.ids for prompt in self.prompts]
        return tuple(greedy_continuations(model, ids, max_new_tokens=self.max_new_tokens, stop=self.stop))


def generation_scores(
    model: nn.Module,
    check: GenerationCheck,
    tokenizer: Any = None,
    *,
    answers: Sequence[Tokens] | None = None,
    compared: bool = True,
    batch_tokens: int | str = "auto",
) -> list[Score]:
    """Scores of a model's greedy answers.

    Parameters
    ----------
    model : nn.Module
        The model.
    check : GenerationCheck
        Prompts with the dense model's answers.
    tokenizer : PreTrainedTokenizerBase, optional
        What turns answers into text, where prompts have right answers.
    answers : sequence of tuple of int, optional
        The model's answers, if they are known.
    compared : bool, default=True
        Whether to compare with the dense model's answers.
    batch_tokens : int or 'auto', default='auto'
        Number of tokens of one forward.
    """
    if any(prompt.answer is not None for prompt in check.prompts):
        text_of((), tokenizer)  # a missing tokenizer is found out before the answers are generated
    found = check.answers_of(model) if answers is None else answers
    scores = []
    if compared:
        equal = [equal_start(new, old) for new, old in zip(found, check.answers, strict=True)]
        same = [float(new == old) for new, old in zip(found, check.answers, strict=True)]
        shares = [_equal_share(new, old) for new, old in zip(found, check.answers, strict=True)]
        scores = [
            _mean(check, "equal_answers", same, True),
            _mean(check, "equal_tokens", shares, True),
            _mean(check, "first_divergence", equal, True),
            _log_likelihood(model, check, batch_tokens),
        ]
    scores.append(_mean(check, "repetition", [repetition(answer) for answer in found], False))
    scores.append(_mean(check, "length", [len(answer) for answer in found], None))
    right = [
        float(is_answer(text_of(answer, tokenizer), prompt.answer))
        for answer, prompt in zip(found, check.prompts, strict=True)
        if prompt.answer is not None
    ]
    if right:
        scores.append(_mean(check, "exact_match", right, True))
    return scores


def equal_start(new: Tokens, old: Tokens) -> int:
    """Tokens before the first one that differs; all of them where none does."""
    for place, (one, other) in enumerate(zip(new, old, strict=False)):
        if one != other:
            return place
    return min(len(new), len(old))


def repetition(answer: Tokens) -> float:
    """Share of the runs of four tokens that have occurred before in the same answer; 0 where it has none."""
    grams = [answer[start : start + _GRAM] for start in range(len(answer) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def is_answer(text: str, answer: str) -> bool:
    """Whether a text is the right answer, white space around it aside.

    A model that doesn't end its answers goes on after them, so for a right answer of one line the first line counts.
    """
    text, answer = text.strip(), answer.strip()
    return (text if "\n" in answer else text.partition("\n")[0].rstrip()) == answer


def text_of(tokens: Sequence[int], tokenizer: Any) -> str:
    """Text of some tokens, without special ones."""
    tokenizer = text_tokenizer(tokenizer, "prompts with right answers need the model's tokenizer")
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True))


def _equal_share(new: Tokens, old: Tokens) -> float:
    return sum(one == other for one, other in zip(new, old, strict=False)) / max(len(new), len(old))


def _protocol(check: GenerationCheck) -> str:
    return f"greedy, up to {check.max_new_tokens} tokens"


def _mean(check: GenerationCheck, metric: str, values: Sequence[float], higher_is_better: bool | None) -> Score:
    n = len(values)
    error = float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return Score(TASK, metric, float(np.mean(values)), error, n, higher_is_better, _protocol(check))


def _log_likelihood(model: nn.Module, check: GenerationCheck, batch_tokens: int | str) -> Score:
    """Of the dense model's answers, in nats per token."""
    text = answered(check.prompts, check.answers, {})
    statistics = sequence_statistics(model, text, ("nll",), batch_tokens=batch_tokens)
    nll_S = statistics.sums["nll"][0]
    per_answer = _mean(check, "log_likelihood", -nll_S / statistics.counts, True)
    value = -float(nll_S.sum() / statistics.counts.sum())
    return Score(TASK, per_answer.metric, value, per_answer.std_error, per_answer.n, True, per_answer.protocol)

"""Greedy continuations of prompts, whatever else is in a prompt's batch, but for rounding.

Shapes: B prompts of a batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from layershap.limits import check_int
from layershap.model.io import (
    check_is_model,
    evaluation_mode,
    input_device,
    maximum_length,
    token_logits,
    vocabulary_size,
)
from layershap.model.skeleton import refuse_skeleton

Tokens = tuple[int, ...]

_ROWS = 16
"""Prompts of one batch: enough for full matrix products, few enough for the caches of a large model.

One by one, eight prompts of SmolLM2 take twice the time in float32 and 3.5 times in bfloat16, on one core."""


def greedy_continuations(
    model: nn.Module, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, stop: Collection[int] = ()
) -> list[Tokens]:
    """The likeliest next token, again and again, after each of some prompts.

    Nothing is padded, so that models of every kind (recurrent ones too) see no other tokens than a prompt's own: a
    batch starts from as many tokens as its shortest prompt has, and longer prompts are fed token by token from there.
    The same prompts have the same continuations. Among other prompts matrix products are rounded otherwise, so that a
    token may be another one where the two likeliest are equal to rounding.

    Parameters
    ----------
    model : nn.Module
        A transformers model generates with its cache; any other module, and one that can't generate, runs its whole
        forward for each token.
    prompts : sequence of sequences of int
        Token ids, at least one in each.
    max_new_tokens : int
        Tokens of a continuation, at most.
    stop : collection of int, default=()
        A token that ends a continuation, as its last.

    Returns
    -------
    list of tuple of int
        The new tokens of each prompt. What the model's own generation settings ask for (sampling, penalties) is left
        out of account.

    Raises
    ------
    ValueError
        No tokens in a prompt, tokens outside the vocabulary, or more than the model's positions.
    """
    check_is_model(model)
    refuse_skeleton(model, "it can't generate")
    max_new_tokens = check_int("max_new_tokens", max_new_tokens, 1)
    _check_prompts(model, prompts, max_new_tokens)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    found: dict[int, Tokens] = {}
    with evaluation_mode(model), torch.inference_mode():
        for start in range(0, len(order), _ROWS):
            rows = order[start : start + _ROWS]
            batch = _Batch([tuple(prompts[row]) for row in rows], max_new_tokens, frozenset(stop))
            ids_BT = _generated(model, batch) if _can_generate(model) else _by_forwards(model, batch)
            found.update(zip(rows, batch.continuations(ids_BT.tolist()), strict=True))
    return [found[index] for index in range(len(prompts))]


def stop_tokens(model: Any, tokenizer: Any = None) -> frozenset[int]:
    """Tokens that end an answer, by the model's generation settings and by the tokenizer."""
    of_model = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = list(of_model) if isinstance(of_model, list | tuple) else [of_model]
    found.append(getattr(tokenizer, "eos_token_id", None))
    return frozenset(int(token) for token in found if token is not None)


class _Batch:
    """Prompts that are continued together."""

    def __init__(self, prompts: Sequence[Tokens], max_new_tokens: int, stop: frozenset[int]) -> None:
        self.prompts, self.max_new_tokens, self.stop = prompts, max_new_tokens, stop
        self.shortest = min(map(len, prompts))
        self.length = max(map(len, prompts)) + max_new_tokens

    def starts(self, device: torch.device) -> Tensor:
        """The tokens that all prompts have [B, T], T being the length of the shortest."""
        return torch.tensor([prompt[: self.shortest] for prompt in self.prompts], device=device)

    def force(self, scores_BV: Tensor, position: int) -> Tensor:
        """Scores of the token at a position, where a prompt that is longer leaves no choice."""
        forced = [(row, prompt[position]) for row, prompt in enumerate(self.prompts) if position < len(prompt)]
        if not forced:
            return scores_BV
        scores_BV = scores_BV.clone()
        for row, token in forced:
            scores_BV[row] = -torch.inf
            scores_BV[row, token] = 0.0
        return scores_BV

    def continuations(self, rows: Sequence[Sequence[int]]) -> list[Tokens]:
        """What follows each prompt, up to its end."""
        return [self._cut(row[len(prompt) :]) for row, prompt in zip(rows, self.prompts, strict=True)]

    def all_done(self, rows: Sequence[Sequence[int]]) -> bool:
        """Whether every prompt has its continuation."""
        return all(
            len(found) == self.max_new_tokens or (len(found) > 0 and found[-1] in self.stop)
            for found in self.continuations(rows)
        )

    def _cut(self, new: Sequence[int]) -> Tokens:
        for place, token in enumerate(new[: self.max_new_tokens], start=1):
            if token in self.stop:
                return tuple(new[:place])
        return tuple(new[: self.max_new_tokens])


class _Forced(LogitsProcessor):
    def __init__(self, batch: _Batch) -> None:
        self.batch = batch

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self.batch.force(scores, input_ids.shape[1])


class _AllDone(StoppingCriteria):
    def __init__(self, batch: _Batch) -> None:
        self.batch = batch

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        done = self.batch.all_done(input_ids.tolist())
        return torch.full((len(input_ids),), done, dtype=torch.bool, device=input_ids.device)


def _can_generate(model: Any) -> bool:
    can_generate = getattr(model, "can_generate", None)
    return can_generate is not None and bool(can_generate())


def _generated(model: Any, batch: _Batch) -> Tensor:
    """By the model's own generation [B, T]."""
    ids_BT = batch.starts(input_device(model))
    with _plain_settings(model):
        found: Tensor = model.generate(
            input_ids=ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            max_new_tokens=batch.length - batch.shortest,
            do_sample=False,
            pad_token_id=0,
            logits_processor=[_Forced(batch)],
            stopping_criteria=[_AllDone(batch)],
        )
    return found


@contextmanager
def _plain_settings(model: Any) -> Iterator[None]:
    """A model without generation settings of its own: they would end a row inside its prompt, or sample."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _by_forwards(model: nn.Module, batch: _Batch) -> Tensor:
    """By a whole forward for each token [B, T]."""
    ids_BT = batch.starts(input_device(model))
    while ids_BT.shape[1] < batch.length and not batch.all_done(ids_BT.tolist()):
        scores_BV = batch.force(token_logits(model, ids_BT)[:, -1], ids_BT.shape[1])
        ids_BT = torch.cat([ids_BT, scores_BV.argmax(dim=-1, keepdim=True)], dim=1)
    return ids_BT


def _check_prompts(model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    empty = [index for index, prompt in enumerate(prompts) if len(prompt) == 0]
    if empty or not prompts:
        raise ValueError(f"prompts must have at least one token each, those at {empty} have none" if empty else _NONE)
    size, limit = vocabulary_size(model), maximum_length(model)
    low, high = min(map(min, prompts)), max(map(max, prompts))
    if low < 0 or (size is not None and high >= size):
        raise ValueError(
            f"prompts' token ids must lie in [0, {size}), the model's vocabulary; they span [{low}, {high}]. Was "
            "another tokenizer used?"
        )
    longest = max(map(len, prompts))
    if limit is not None and longest + max_new_tokens > limit:
        raise ValueError(
            f"prompt and continuation must fit the model's {limit} positions, the longest prompt has {longest} tokens "
            f"and max_new_tokens is {max_new_tokens}; shorten the prompts, or lower max_new_tokens"
        )


_NONE = "there must be at least one prompt, got none"

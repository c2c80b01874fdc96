"""Measured speed of models side by side: prefill and decode, in turns, so that a slow machine slows all alike.

Shapes: B sequences, T prompt tokens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from layershap.limits import check_int
from layershap.model.io import evaluation_mode, input_device, maximum_length, token_logits, vocabulary_size
from layershap.report.outcome import SpeedRecord

_PROMPT, _NEW = 128, 32
"""Tokens of a prompt, and tokens generated after the first, unless told."""


def measure_speed(
    models: Sequence[nn.Module],
    *,
    batch_sizes: Sequence[int] = (1, 8),
    prompt_tokens: int | None = None,
    new_tokens: int | None = None,
    repeats: int = 5,
) -> list[tuple[SpeedRecord, ...]]:
    """Time prefill and decode of several models.

    Prefill is the time from the prompt to the first new token; decode is that of each further token, greedy, with the
    cache: ``(time of 1 + new_tokens tokens - time of 1) / new_tokens``. Models without ``generate`` have a prefill
    (one forward) and no decode.

    Parameters
    ----------
    models : sequence of nn.Module
        Measured in turns, repetition by repetition.
    batch_sizes : sequence of int, default=(1, 8)
        One record for each.
    prompt_tokens, new_tokens : int, optional
        Lengths; together they must fit the models' positions. By default 128 and 32, or what fits.
    repeats : int, default=5
        Number of repetitions whose medians are reported, after one run that warms up.

    Returns
    -------
    list of tuple of SpeedRecord
        One tuple per model.
    """
    check_int("repeats", repeats, 1)
    for size in batch_sizes:
        check_int("each of batch_sizes", size, 1)
    if not batch_sizes:
        return [() for _ in models]
    prompt_tokens, new_tokens = speed_lengths(models, prompt_tokens, new_tokens)
    records: list[list[SpeedRecord]] = [[] for _ in models]
    for batch_size in batch_sizes:
        prompts = [_prompt(model, batch_size, prompt_tokens) for model in models]
        prefill: list[list[float]] = [[] for _ in models]
        whole: list[list[float]] = [[] for _ in models]
        for repeat in range(repeats + 1):
            for i, model in enumerate(models):
                first = _seconds(model, prompts[i], 1)
                more = _seconds(model, prompts[i], 1 + new_tokens) if _generates(model) else None
                if repeat > 0:
                    prefill[i].append(first)
                    if more is not None:
                        whole[i].append(more)
        for i in range(len(models)):
            start = median(prefill[i])
            # On a loaded machine the difference of two noisy times can come out at zero or below: no rate then.
            decode = (median(whole[i]) - start) / new_tokens if whole[i] else None
            records[i].append(
                SpeedRecord(
                    batch_size=batch_size,
                    prompt_tokens=prompt_tokens,
                    new_tokens=new_tokens,
                    prefill_seconds=start,
                    prefill_tokens_per_second=batch_size * prompt_tokens / start,
                    decode_seconds=decode,
                    decode_tokens_per_second=batch_size / decode if decode is not None and decode > 0 else None,
                )
            )
    return [tuple(found) for found in records]


def speed_lengths(
    models: Sequence[nn.Module], prompt_tokens: int | None = None, new_tokens: int | None = None
) -> tuple[int, int]:
    """Tokens of a prompt and tokens generated after its first: 128 and 32 unless told, or what the positions allow.

    Raises
    ------
    ValueError
        Below 1, or more than the models' positions together.
    """
    limits = [limit for limit in map(maximum_length, models) if limit is not None]
    positions = min(limits, default=_PROMPT + _NEW)
    if new_tokens is None:
        new_tokens = min(_NEW, max(1, positions // 5))
    if prompt_tokens is None:
        prompt_tokens = min(_PROMPT, max(1, positions - new_tokens))
    check_int("prompt_tokens", prompt_tokens, 1)
    check_int("new_tokens", new_tokens, 1)
    if limits and prompt_tokens + new_tokens > positions:
        raise ValueError(
            f"prompt_tokens and new_tokens must fit the models' {positions} positions together, got {prompt_tokens} + "
            f"{new_tokens}; lower one of them, or measure no speed with batch_sizes=()"
        )
    return prompt_tokens, new_tokens


def _generates(model: Any) -> bool:
    can_generate = getattr(model, "can_generate", None)
    return can_generate is not None and bool(can_generate())


def _prompt(model: nn.Module, batch_size: int, prompt_tokens: int) -> Tensor:
    """Arbitrary tokens, the same for every model with the same vocabulary: the time doesn't depend on which."""
    generator = torch.Generator().manual_seed(0)
    size = vocabulary_size(model) or 2
    return torch.randint(size, (batch_size, prompt_tokens), generator=generator, device="cpu").to(input_device(model))


def _seconds(model: Any, prompt_BT: Tensor, n_tokens: int) -> float:
    on_gpu = prompt_BT.is_cuda
    with evaluation_mode(model), torch.inference_mode():
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        if _generates(model):
            model.generate(
                input_ids=prompt_BT,
                attention_mask=torch.ones_like(prompt_BT),
                min_new_tokens=n_tokens,
                max_new_tokens=n_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        else:
            token_logits(model, prompt_BT)
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - start

"""A model's own answers as calibration text: what a smaller model must still say.

Shapes: T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layershap.calibration.batches import IGNORE
from layershap.calibration.blocks import Calibration
from layershap.calibration.enough import warn_of_little
from layershap.calibration.packing import evenly
from layershap.calibration.prompts import Prompt, prompts_provenance, read_prompts, warn_of_empty_answers
from layershap.limits import check_int
from layershap.model.greedy import Tokens, greedy_continuations, stop_tokens


def own_answers(
    model: nn.Module,
    prompts: Any,
    tokenizer: Any = None,
    *,
    max_new_tokens: int = 64,
    n_sequences: int | Literal["auto"] = "auto",
) -> Calibration:
    """A model's greedy answers to prompts, of which only the answers are scored.

    The answers are generated once, by the model with all its layers. Masked models are then scored on them as on any
    other text, all at once: how likely each token of the answer is after the ones before it. A layer without which the
    model would say something else is of value.

    Parameters
    ----------
    model : nn.Module
        The model that will be pruned.
    prompts : str, iterable, datasets.Dataset, mapping or Tensor [S, T]
        Texts, which are continued as they stand, without a chat template; chats, which are answered, without the
        answers that they end with; rows with 'prompt', 'text' or 'messages'; or token ids, padded on either side or
        not. What a chat model is to be asked is a chat, ``[{"role": "user", "content": question}]``.
    tokenizer : PreTrainedTokenizerBase, optional
        The model's tokenizer, which all but token ids need.
    max_new_tokens : int, default=64
        Number of tokens of an answer, at most; it ends earlier after an end-of-text token, which is scored too.
    n_sequences : int or 'auto', default='auto'
        Number of prompts, taken at even distances; they must be there. 'auto' takes all and warns of fewer than 32.

    Returns
    -------
    Calibration
        A sequence for each prompt, with its answer, padded on the right.

    Raises
    ------
    ValueError
        No prompts, fewer than asked for, chats without a chat template, or prompt and answer longer than the model's
        positions.
    TypeError
        Not prompts.

    Warns
    -----
    CalibrationWarning
        'auto' found fewer than 32 prompts.
    PromptWarning
        The tokenizer has a chat template, and at least a quarter of the answers to plain texts are empty.

    See Also
    --------
    chat_answers : Written answers.
    layershap.GenerationCheck : How close a pruned model's answers are.

    Examples
    --------
    >>> from layershap.calibration import own_answers
    >>> from layershap.datasets import load_tiny_gpt2
    >>> model, tokenizer = load_tiny_gpt2()
    >>> prompts = ["The ship sailed", "In the morning"]
    >>> own_answers(model, prompts, tokenizer, max_new_tokens=8, n_sequences=2).counts_S.tolist()
    [8, 8]
    """
    if n_sequences != "auto":
        n_sequences = check_int("n_sequences", n_sequences, 1, other="'auto'")
    found = read_prompts(prompts, tokenizer)
    if n_sequences != "auto":
        if len(found) < n_sequences:
            raise ValueError(f"n_sequences must be at most {len(found)}, the number of prompts, got {n_sequences}")
        found = tuple(found[index] for index in evenly(len(found), n_sequences))
    warn_of_little(len(found), n_sequences, f"there are only {len(found)} prompts", "prompts")
    answers = greedy_answers(model, found, tokenizer, max_new_tokens=max_new_tokens, stop=stop_tokens(model, tokenizer))
    provenance = {
        "source": f"greedy answers of the {type(model).__name__} itself",
        "scored": "answers",
        **prompts_provenance(found, tokenizer),
        "max_new_tokens": max_new_tokens,
        "bos": "as prompted",
    }
    return answered(found, answers, provenance)


def greedy_answers(
    model: nn.Module, prompts: Sequence[Prompt], tokenizer: Any, *, max_new_tokens: int, stop: Collection[int]
) -> tuple[Tokens, ...]:
    """The whole model's new tokens after each prompt, with a warning where many of a chat model's are none."""
    ids = [prompt.ids for prompt in prompts]
    answers = tuple(greedy_continuations(model, ids, max_new_tokens=max_new_tokens, stop=stop))
    warn_of_empty_answers(prompts, answers, stop, tokenizer)
    return answers


def answered(prompts: Sequence[Prompt], answers: Sequence[Tokens], provenance: dict[str, Any]) -> Calibration:
    """Sequences of prompts with their answers, of which the answers are scored; `provenance` is kept as given."""
    return Calibration.from_rows([_row(p.ids, a) for p, a in zip(prompts, answers, strict=True)], provenance)


def _row(prompt: Tokens, answer: Tokens) -> tuple[Tensor, Tensor]:
    ids_T = torch.tensor([*prompt, *answer], dtype=torch.int64, device="cpu")
    labels_T = ids_T.clone()
    labels_T[: len(prompt)] = IGNORE
    return ids_T, labels_T

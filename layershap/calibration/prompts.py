"""Prompts in the forms that people have them -> token ids, and the right answers where rows have them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from layershap.calibration.batches import PadToken, rows_of
from layershap.calibration.chat_source import Chat, check_chat
from layershap.calibration.chat_template import chat_template, rendered, template_digest
from layershap.calibration.sources import CHATS, check_is_no_container, text_tokenizer, token_ids
from layershap.exceptions import PromptWarning
from layershap.places import tokenizer_name
from layershap.warning import warn_user

_NO_TOKENIZER = "prompts need the model's tokenizer, except where they are token ids"

_TEXTS = ("prompt", "text")

_SILENT = 0.25
"""Share of empty answers to plain texts from which on a chat model seems to be asked in the wrong way.

SmolLM2 has none after 64 beginnings and sentences of the bundled novels, 5 after 12 plain questions."""


@dataclass(frozen=True)
class Prompt:
    """What a model is to go on from.

    Attributes
    ----------
    ids : tuple of int
        Token ids, without padding.
    answer : str or None
        The right answer, where the row has one.
    kind : {'text', 'chat', 'tokens'}
        What it was given as.
    words : str
        For people: the text, or the last message of a chat before the answer. Empty for token ids.
    """

    ids: tuple[int, ...]
    answer: str | None = None
    kind: Literal["text", "chat", "tokens"] = "tokens"
    words: str = ""


def read_prompts(prompts: Any, tokenizer: Any = None) -> tuple[Prompt, ...]:
    """Prompts as tokens.

    Parameters
    ----------
    prompts : str, iterable, datasets.Dataset, mapping or Tensor [S, T]
        Each of one of these kinds, all of them of the same:

        - a text, continued as it stands, with the special tokens that the tokenizer begins texts with;
        - a chat, rendered with the generation prompt; answers at its end are left out;
        - a row with 'prompt' or 'text' (a text or a chat) or with 'messages', and with 'answer' or without;
        - token ids: a batch with 'input_ids' and 'attention_mask', padded on either side, or a tensor.
    tokenizer : PreTrainedTokenizerBase, optional
        The model's tokenizer, which all but token ids need.

    Raises
    ------
    TypeError, ValueError
        None of these, no prompts, or one without tokens.
    """
    check_is_no_container(prompts)
    if isinstance(prompts, Tensor | np.ndarray) or hasattr(prompts, "input_ids"):
        return _of_tokens(prompts, tokenizer)
    if isinstance(prompts, Mapping):
        if "input_ids" in prompts:
            return _of_tokens(prompts, tokenizer)
        raise TypeError(f"prompts must be a list, got one mapping with {sorted(map(str, prompts))[:5]}; give [row]")
    items = [prompts] if isinstance(prompts, str) else list(_iterated(prompts))
    if not items:
        raise ValueError("there must be at least one prompt, got none")
    if isinstance(items[0], Mapping) and "role" in items[0]:
        raise TypeError("prompts must be a list of chats, got one chat alone; give [chat]")
    found: list[Prompt] = []
    for index, item in enumerate(items):
        if isinstance(item, Mapping) and "input_ids" in item:
            found += _of_tokens(item, tokenizer)
        else:
            found.append(_prompt(item, tokenizer, f"prompt {index}"))
    return tuple(found)


def prompts_provenance(prompts: tuple[Prompt, ...], tokenizer: Any) -> dict[str, Any]:
    """Entries on prompts for a `Calibration`: how many, and by which tokenizer and template they became tokens."""
    found: dict[str, Any] = {"n_prompts": len(prompts)}
    if tokenizer is not None:
        tokenizer = text_tokenizer(tokenizer)
        found["tokenizer"] = tokenizer_name(tokenizer)
        if getattr(tokenizer, "chat_template", None):
            found["chat_template"] = template_digest(chat_template(tokenizer))
    return found


def warn_of_empty_answers(
    prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], stop: Collection[int], tokenizer: Any
) -> None:
    """Warn where a chat model says nothing to plain texts, which it wasn't trained to go on from.

    Plain texts alone are no fault: many a chat model continues them.

    Parameters
    ----------
    prompts : sequence of Prompt
        What was asked.
    answers : sequence of sequences of int
        The new tokens of each.
    stop : collection of int
        Tokens that end an answer, as its last.
    tokenizer : PreTrainedTokenizerBase or None
        Asked for its chat template.

    Warns
    -----
    PromptWarning
        The tokenizer has a chat template, and at least a quarter of the answers to plain texts are empty.
    """
    to_texts = [answer for prompt, answer in zip(prompts, answers, strict=True) if prompt.kind == "text"]
    n_empty = sum(answer[0] in stop for answer in to_texts)
    if (
        not to_texts
        or n_empty < _SILENT * len(to_texts)
        or not getattr(text_tokenizer(tokenizer), "chat_template", None)
    ):
        return
    warn_user(
        f"{n_empty} of the {len(to_texts)} answers to plain texts are empty: the model ends them at once. Texts are "
        "continued as they stand, without the chat template that its tokenizer has, and a chat model is asked by "
        "chats. Give [{'role': 'user', 'content': text}] in place of each text; in a file, a .jsonl line "
        '{"messages": [{"role": "user", "content": "..."}]}.',
        PromptWarning,
    )


def _iterated(prompts: Any) -> Iterable[Any]:
    if not isinstance(prompts, Iterable):
        raise TypeError(f"prompts must be texts, chats, rows or token ids, got {type(prompts).__name__}")
    return prompts


def _prompt(item: Any, tokenizer: Any, where: str) -> Prompt:
    if not isinstance(item, Mapping):
        return _of_words(item, tokenizer, where)
    name = next((name for name in (*_TEXTS, *CHATS) if item.get(name) is not None), None)
    if name is None:
        raise ValueError(f"{where} must have 'prompt', 'text' or 'messages', it has {sorted(map(str, item))}")
    answer = item.get("answer")
    if answer is not None and not (isinstance(answer, str) and answer.strip()):
        raise ValueError(
            f"the answer of {where} must be a text that isn't blank, got {answer!r}; leave it out if unknown"
        )
    return _of_words(item[name], tokenizer, f"{name!r} of {where}", answer)


def _of_words(prompt: str | Chat, tokenizer: Any, where: str, answer: str | None = None) -> Prompt:
    tokenizer = text_tokenizer(tokenizer, _NO_TOKENIZER)
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt, verbose=False)["input_ids"])
        # Some tokenizers end every text: nothing would follow.
        if len(ids) > 1 and ids[-1] == getattr(tokenizer, "eos_token_id", None) and not _ends_text(prompt, tokenizer):
            ids.pop()
        words = prompt
    else:
        chat_template(tokenizer)
        chat = list(check_chat(prompt, where))
        while chat and chat[-1]["role"] == "assistant":
            chat.pop()
        if not chat:
            raise ValueError(f"{where} must have a message that the assistant can answer, it has only answers")
        ids = token_ids(tokenizer, rendered(chat, tokenizer, ask=True))
        words = _words(chat[-1].get("content"))
    if not ids:
        raise ValueError(f"{where} must have at least one token, it is empty")
    kind: Literal["text", "chat"] = "text" if isinstance(prompt, str) else "chat"
    return Prompt(tuple(int(token) for token in ids), answer, kind, words)


def _words(content: Any) -> str:
    """The text of a message, which may have parts that aren't text."""
    if isinstance(content, str) or not isinstance(content, Iterable):
        return str(content or "")
    return " ".join(str(part["text"]) for part in content if isinstance(part, Mapping) and "text" in part)


def _ends_text(prompt: str, tokenizer: Any) -> bool:
    """Whether a prompt itself ends with the end-of-text token."""
    return prompt.endswith(str(getattr(tokenizer, "eos_token", None)))


def _of_tokens(batch: Any, tokenizer: Any) -> tuple[Prompt, ...]:
    pad = None if tokenizer is None else PadToken.of(text_tokenizer(tokenizer))
    rows = tuple(Prompt(tuple(ids.tolist())) for ids, _ in rows_of(batch, pad))
    empty = [index for index, row in enumerate(rows) if not row.ids]
    if empty or not rows:
        raise ValueError(f"prompts must have at least one token each; of {len(rows)}, those at {empty} have none")
    return rows

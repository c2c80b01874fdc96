"""A tokenizer's chat template: chats -> text and tokens, and which of them an assistant wrote."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from layershap.calibration.chat_source import Chat
from layershap.places import tokenizer_name

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


def chat_template(tokenizer: Any) -> str:
    """The template that a tokenizer renders chats by.

    Raises
    ------
    ValueError
        It has none.
    """
    getter = getattr(tokenizer, "get_chat_template", None)
    if getter is None or not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"chats need a tokenizer with a chat template; {tokenizer_name(tokenizer)} has none. Set "
            "tokenizer.chat_template to the one the model was trained with, or give texts"
        )
    return str(getter())


def template_digest(template: str) -> str:
    """What a provenance says of a template: the beginning of its SHA-256."""
    return hashlib.sha256(template.encode()).hexdigest()[:12]


def answer_tokens(chat: Chat, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """Token ids of a chat, and which of them are an answer's.

    Raises
    ------
    ValueError
        The tokenizer doesn't say which characters a token stands for, or the template's renderings don't nest.
    """
    if _MARKED.search(chat_template(tokenizer)):
        found = tokenizer.apply_chat_template(
            list(chat), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return list(found["input_ids"]), [bool(flag) for flag in found["assistant_masks"]]
    text = rendered(chat, tokenizer)
    spans = _answer_spans(chat, text, tokenizer)
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} doesn't say which characters its tokens stand for, which is needed to score "
            "the answers alone: load a fast tokenizer, or give it a template with {% generation %} blocks"
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    # A token that begins before an answer and ends in it is scored, as it is in transformers' own mask.
    scored = [
        any(begin < stop and max(end, begin + 1) > start for start, stop in spans)
        for begin, end in encoded["offset_mapping"]
    ]
    return list(encoded["input_ids"]), scored


def rendered(chat: Chat, tokenizer: Any, *, ask: bool = False) -> str:
    """The text of a chat, with the generation prompt if the next message is to be the assistant's."""
    return str(tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=ask))


def _answer_spans(chat: Chat, text: str, tokenizer: Any) -> list[tuple[int, int]]:
    """Characters of a rendered chat that the assistant would have to write."""
    spans = []
    for number, message in enumerate(chat):
        if message["role"] != "assistant":
            continue
        before = rendered(chat[:number], tokenizer, ask=True) if number else ""
        upto = rendered(chat[: number + 1], tokenizer)
        if not (upto.startswith(before) and text.startswith(upto)):
            raise ValueError(
                f"the chat template of {tokenizer_name(tokenizer)} doesn't render the first {number + 1} messages of a "
                f"chat of {len(chat)} as the beginning of the chat (some leave out earlier thoughts, or add to the "
                "last message), so the answers' tokens can't be told. Give it a template with {% generation %} blocks "
                "around the answers, or chats of one answer"
            )
        spans.append((len(before), len(before) + _answer_length(upto[len(before) :], tokenizer)))
    return spans


def _answer_length(answer: str, tokenizer: Any) -> int:
    """Characters up to and including the token that ends an answer: after it a model is stopped."""
    end = getattr(tokenizer, "eos_token", None)
    kept = answer.rstrip()
    return len(kept) if end and kept.endswith(end) else len(answer)

"""Chats -> rows of tokens by a tokenizer's chat template, in which only the answers are scored.

Shapes: T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from layershap.calibration.batches import IGNORE
from layershap.calibration.blocks import AUTO_SEQUENCES, Calibration
from layershap.calibration.chat_source import read_chats
from layershap.calibration.chat_template import answer_tokens, chat_template, template_digest
from layershap.calibration.enough import warn_of_little
from layershap.calibration.packing import evenly
from layershap.calibration.sources import text_tokenizer
from layershap.limits import check_int
from layershap.places import tokenizer_name

_NO_TOKENIZER = "chats need the model's tokenizer, whose chat template renders them"


def chat_answers(
    chats: Iterable[Any],
    tokenizer: Any,
    *,
    column: str | None = None,
    max_length: int = 512,
    n_sequences: int | Literal["auto"] | None = "auto",
) -> Calibration:
    """Chats as the model sees them, one to a sequence, of which only the assistant's answers are scored.

    What a chat model is asked is context: it never has to predict it. Which tokens are answers is known from the
    template's ``{% generation %}`` blocks. Of templates without them it is what an assistant's message adds to the
    chat before it with the generation prompt, up to and including the end-of-text token.

    Parameters
    ----------
    chats : iterable of chats, datasets.Dataset or iterable of mappings
        Lists of messages with 'role' and 'content', or rows with a column of them, streamed or not. Of sources
        without a length the first 4,096 are read.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer, with a chat template.
    column : str, optional
        Of rows: the one with the messages. By default 'messages', 'conversations', 'conversation' or 'chat'.
    max_length : int, default=512
        Number of tokens of a sequence, at most; longer chats lose their ends.
    n_sequences : int, 'auto' or None, default='auto'
        Number of chats, taken at even distances. 'auto' takes up to 128 and warns of fewer than 32; an int must be
        there; None takes all. Chats in which nothing is scored are left out.

    Returns
    -------
    Calibration
        A sequence for each chat, padded on the right; which side the tokenizer pads on doesn't matter.

    Raises
    ------
    ValueError
        No chat template; one that doesn't render the beginning of a chat as the beginning of the chat, so that
        answers can't be found; rows without messages; fewer chats with answers than asked for.
    TypeError
        Not chats.

    Warns
    -----
    CalibrationWarning
        'auto' found fewer than 32 chats with answers.

    See Also
    --------
    own_answers : The model's own answers in place of written ones.

    Examples
    --------
    >>> from layershap.calibration import chat_answers
    >>> from layershap.datasets import load_tiny_gpt2
    >>> tokenizer = load_tiny_gpt2()[1]
    >>> tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}. {% endfor %}"
    >>> chat = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "In the sea."}]
    >>> chat_answers([chat], tokenizer, n_sequences=1).n_sequences
    1
    """
    tokenizer = text_tokenizer(tokenizer, _NO_TOKENIZER)
    template = chat_template(tokenizer)
    check_int("max_length", max_length, 2, meaning="one token of context, one to score")
    if n_sequences is not None and n_sequences != "auto":
        n_sequences = check_int("n_sequences", n_sequences, 1, other="'auto', or None for all")
    found, stopped = read_chats(chats, column)
    wanted = AUTO_SEQUENCES if n_sequences == "auto" else len(found) if n_sequences is None else n_sequences
    rows: dict[int, tuple[Tensor, Tensor]] = {}
    n_without = n_cut = 0
    for index in _spread(len(found), wanted):
        if len(rows) == wanted:
            break
        ids, scored = answer_tokens(found.chat(index), tokenizer)
        row = _row(ids[:max_length], scored[:max_length])
        if bool((row[1][1:] != IGNORE).any()):
            rows[index] = row
            n_cut += len(ids) > max_length
        else:
            n_without += 1
    _check_enough(len(rows), len(found), n_sequences)
    provenance: dict[str, Any] = {
        "source": "chats",
        "scored": "answers",
        "n_chats": len(found),
        "tokenizer": tokenizer_name(tokenizer),
        "chat_template": template_digest(template),
        "bos": "by the chat template",
    }
    counted = {"without_answers": n_without, "cut": n_cut}
    provenance |= {name: count for name, count in counted.items() if count} | stopped
    return Calibration.from_rows([rows[index] for index in sorted(rows)], provenance)


def _row(ids: Sequence[int], scored: Sequence[bool]) -> tuple[Tensor, Tensor]:
    ids_T = torch.tensor(ids, dtype=torch.int64, device="cpu")
    return ids_T, torch.where(torch.tensor(scored, dtype=torch.bool, device="cpu"), ids_T, IGNORE)


def _spread(count: int, wanted: int) -> Iterator[int]:
    """Indices at even distances, then the others in order: in place of what turns out to have no answer."""
    even = evenly(count, min(wanted, count))
    yield from even
    taken = set(even)
    yield from (index for index in range(count) if index not in taken)


def _check_enough(count: int, given: int, n_sequences: int | Literal["auto"] | None) -> None:
    least = n_sequences if isinstance(n_sequences, int) else 1
    if count < least:
        raise ValueError(
            f"there must be {least} chats with an assistant's answer within max_length, of the {given} given {count} "
            "have one. Give more chats, a larger max_length or a smaller n_sequences"
        )
    warn_of_little(count, n_sequences, f"there are only {count} chats with answers", "chats")

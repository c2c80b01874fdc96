"""Context and continuation -> tokens, split where lm-evaluation-harness splits them, so that scores are equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from layershap.calibration import IGNORE
from layershap.calibration.sources import text_tokenizer


def encode_pairs(
    pairs: Sequence[tuple[str, str]], tokenizer: Any, max_length: int | None, rows: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Token ids and labels of each pair; only the continuation's tokens count.

    Context and continuation are tokenised together, with the tokenizer's own special tokens, and cut where the context
    alone would end. White space at the end of the context belongs to the continuation. An empty context is replaced by
    the BOS token (EOS where there is none). Too long a context loses its beginning.

    Parameters
    ----------
    pairs : sequence of (context, continuation)
        Texts.
    tokenizer : PreTrainedTokenizerBase
        Called with its defaults.
    max_length : int or None
        Positions of the model.
    rows : sequence of int
        Row of each pair, for errors.
    """
    tokenizer = text_tokenizer(tokenizer, "a task's rows need a tokenizer")
    moved = []
    for context, continuation in pairs:
        kept = context.rstrip()
        moved.append((kept, context[len(kept) :] + continuation))
    wholes = tokenizer([a + b if a else b for a, b in moved], verbose=False)["input_ids"]
    contexts = tokenizer([a or " " for a, _ in moved], verbose=False)["input_ids"]
    encoded = []
    for (context, continuation), whole, alone, row in zip(moved, wholes, contexts, rows, strict=True):
        if context:
            start, ids = len(alone), list(whole)
        else:
            start, ids = 1, _after_prefix(continuation, tokenizer)
        if len(ids) <= start:
            raise ValueError(f"the continuation {continuation!r} of row {row} has no tokens of its own")
        if max_length is not None and len(ids) - start >= max_length:
            raise ValueError(
                f"choices must fit the model's {max_length} positions with a token of context before them; one of row "
                f"{row} has {len(ids) - start} tokens"
            )
        if max_length is not None and len(ids) > max_length:
            start -= len(ids) - max_length
            ids = ids[-max_length:]
        ids_T = torch.tensor(ids, dtype=torch.int64, device="cpu")
        labels_T = ids_T.clone()
        labels_T[:start] = IGNORE
        encoded.append((ids_T, labels_T))
    return encoded


def _after_prefix(continuation: str, tokenizer: Any) -> list[int]:
    """Tokens of a continuation without context, after the BOS (or EOS) token that stands for one."""
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if prefix is None:
        raise ValueError(
            f"an empty context needs a bos_token or eos_token to stand for it and {type(tokenizer).__name__} has "
            "neither; give the row a context"
        )
    ids = list(tokenizer(continuation, add_special_tokens=False, verbose=False)["input_ids"])
    return ids if ids[:1] == [prefix] else [int(prefix), *ids]

"""A stream of tokens -> full sequences; nothing is padded.

Shapes: S sequences, T tokens in a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from layershap.limits import check_int


def check_sizes(seq_len: int, n_sequences: int | Literal["auto"] | None) -> None:
    """Raise unless a sequence has a token of context and one to score, and there is at least one."""
    check_int("seq_len", seq_len, 2, meaning="one token of context, one to score")
    if n_sequences is not None and n_sequences != "auto":
        check_int("n_sequences", n_sequences, 1, other="'auto', or None for all")


def evenly(available: int, count: int) -> list[int]:
    """Indices of `count` of so many things at even distances, the first among them."""
    return [index * available // count for index in range(count)]


def pack(
    stream: Sequence[int], *, seq_len: int, n_sequences: int | None, first_token: int | None, n_texts: int
) -> Tensor:
    """Cut a stream into sequences [S, T] of int64.

    Parameters
    ----------
    stream : sequence of int
        Tokens; those that don't fill a sequence are dropped.
    seq_len : int
        T.
    n_sequences : int or None
        S, taken at even distances over the stream; None takes all.
    first_token : int or None
        A token that starts each sequence, as one of its T.
    n_texts : int
        Where the stream came from, for the error.
    """
    body = seq_len - (first_token is not None)
    available = len(stream) // body
    if available < (n_sequences or 1):
        raise ValueError(
            f"calibration texts must fill {n_sequences or 1} sequences of {seq_len} tokens; these {n_texts} texts "
            f"have {len(stream)} tokens, enough for {available}. Give more text, or lower n_sequences or seq_len."
        )
    taken = evenly(available, available if n_sequences is None else n_sequences)
    ids = np.asarray(stream[: available * body], dtype=np.int64).reshape(available, body)[taken]
    if first_token is not None:
        ids = np.concatenate([np.full((len(ids), 1), first_token, dtype=np.int64), ids], axis=1)
    return torch.from_numpy(ids)

"""Batches of tokens as loaders give them -> rows of (ids, labels) without padding.

Shapes: B rows of a batch, T tokens, t tokens of one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

IGNORE = -100
"""Label of a position that doesn't count (torch's and transformers' convention)."""


_MOST_FIELDS = 4
"""Parts of a batch of tokens: ids, attention mask, labels, positions."""


@dataclass(frozen=True)
class PadToken:
    """What a tokenizer says of padding.

    Attributes
    ----------
    token : int
        The id that fills rows up.
    shared : bool
        Whether it also begins or ends texts (BOS, EOS, unknown), so that a row's ends don't tell padding from text.
    """

    token: int
    shared: bool

    @classmethod
    def of(cls, tokenizer: Any) -> PadToken | None:
        """A tokenizer's, None where there is none."""
        token = getattr(tokenizer, "pad_token_id", None)
        if token is None:
            return None
        others = [getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "unk")]
        return cls(int(token), token in others)


def rows_of(batch: Any, pad: PadToken | None = None) -> list[tuple[Tensor, Tensor]]:
    """Rows (ids [t], labels [t]) of one batch, without their padding.

    An attention mask says what is padding. Without one, runs of the pad token at either end of a row are.

    Parameters
    ----------
    batch : mapping or object with ``input_ids``, Tensor [B, T] or [T], or lists of int
        Rows given as lists may differ in length. A mapping may have ``attention_mask`` and ``labels``.
    pad : PadToken, optional
        The tokenizer's.

    Raises
    ------
    ValueError
        No token ids, ids that aren't integers, mask or labels of another shape, or padding that can't be told from
        text.
    """
    ids, mask, labels = _fields(batch)
    rows = _split("input_ids", ids)
    labels_of = rows if labels is None else _aligned("labels", labels, rows)
    if mask is not None:
        masks = _aligned("attention_mask", mask, rows)
        return [_unmasked(*row) for row in zip(rows, labels_of, masks, strict=True)]
    if pad is None:
        return list(zip(rows, labels_of, strict=True))
    return [_without_padding(*row, pad) for row in zip(rows, labels_of, strict=True)]


def _fields(batch: Any) -> tuple[Any, Any, Any]:
    """Ids, attention mask and labels, whatever they are; None where not given."""
    if isinstance(batch, Mapping):
        if "input_ids" not in batch:
            raise ValueError(f"a calibration batch must have 'input_ids', got keys {sorted(map(str, batch))}")
        return batch["input_ids"], batch.get("attention_mask"), batch.get("labels")
    if hasattr(batch, "input_ids"):
        return batch.input_ids, getattr(batch, "attention_mask", None), getattr(batch, "labels", None)
    if isinstance(batch, tuple | list) and len(batch) > 1:
        first = batch[0]
        # A list holds rows, unless its parts have rows themselves; a tuple holds fields.
        is_record = (
            isinstance(first, Tensor) or (isinstance(batch, tuple) and not np.isscalar(first)) or _has_rows(first)
        )
        if is_record or _is_mask_of(batch[1], first):
            raise _unnamed_fields(batch)
    if isinstance(batch, tuple | list) and len(batch) == 1 and isinstance(batch[0], Tensor):
        return batch[0], None, None
    return batch, None, None


def no_record(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, of which none is the attention mask of the first.

    Raises
    ------
    ValueError
        The first of them are the fields of one batch: a tuple of arrays, or tokens and their mask.
    """
    if isinstance(batches, tuple) and len(batches) > 1 and isinstance(batches[0], Tensor | np.ndarray | list):
        raise _unnamed_fields(batches)
    first: Any = None
    for number, batch in enumerate(batches):
        first = batch if number == 0 else first
        if 0 < number < _MOST_FIELDS and _is_mask_of(batch, first):
            raise _unnamed_fields((first, batch))
        yield batch


def _unnamed_fields(parts: Sequence[Any]) -> ValueError:
    """The error for arrays side by side, of which some may be attention mask and labels."""
    kind = "tensors" if isinstance(parts[0], Tensor) else "arrays"
    return ValueError(
        f"a calibration batch that is a {type(parts).__name__} of {len(parts)} {kind} doesn't say which of them are "
        "attention mask and labels. Name them: ({'input_ids': ids, 'attention_mask': mask} for ids, mask in loader)"
    )


def _is_mask_of(part: Any, first: Any) -> bool:
    """Whether `part` has the shape of the tokens `first` and holds 0 and 1 only: it is their mask, not more tokens."""
    if any(np.isscalar(x) or isinstance(x, str | Mapping) or hasattr(x, "input_ids") for x in (part, first)):
        return False
    ids, mask = _split("input_ids", first), _split("input_ids", part)
    if [len(row) for row in ids] != [len(row) for row in mask] or not any(map(len, mask)):
        return False
    return _are_flags(mask) and not _are_flags(ids)


def _are_flags(rows: Sequence[Tensor]) -> bool:
    return all(bool(((row == 0) | (row == 1)).all()) for row in rows)


def _has_rows(values: Any) -> bool:
    """Whether an array or list has more than one dimension."""
    if isinstance(values, Tensor | np.ndarray):
        return values.ndim > 1
    return isinstance(values, list | tuple) and len(values) > 0 and not np.isscalar(values[0])


def _split(name: str, values: Any) -> list[Tensor]:
    """A field as rows [t], on the CPU whatever torch's default device is."""
    if isinstance(values, Tensor | np.ndarray):
        tensor = torch.as_tensor(values, device="cpu")
        if tensor.dim() == 0:
            raise ValueError(_wrong_shape(name, f"the single number {tensor.item()}"))
        if tensor.shape[-1] == 0:
            return [torch.zeros(0, dtype=torch.int64, device="cpu")] * int(np.prod(tensor.shape[:-1]))
        return list(_integers(name, tensor).reshape(-1, tensor.shape[-1]))
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        number = isinstance(values, int | float)
        raise ValueError(_wrong_shape(name, f"the single number {values!r}" if number else type(values).__name__))
    if len(values) == 0 or isinstance(values[0], int | float | complex | np.number):
        return _split(name, torch.tensor(list(values), device="cpu"))
    if isinstance(values[0], str | Mapping):
        raise ValueError(
            f"{name} must be token ids [S, T], got a list of {type(values[0]).__name__}; give texts as one iterable of "
            "strings, chats to layershap.calibration.chat_answers(chats, tokenizer), or rendered to text "
            "(tokenizer.apply_chat_template(chat, tokenize=False))"
        )
    return [row for value in values for row in _split(name, value)]


def _wrong_shape(name: str, found: str) -> str:
    if name == "input_ids":
        return f"{name} must be token ids [S, T], got {found}; one row of ids is [ids]"
    return f"{name} must have the shape of input_ids, one value for each token; got {found}. Leave out what isn't such"


def _integers(name: str, tensor: Tensor) -> Tensor:
    if name == "attention_mask":
        if not ((tensor == 0) | (tensor == 1)).all():
            raise ValueError(
                "attention_mask must have the shape of input_ids, 1 for tokens and 0 for padding; it holds other values"
            )
        return tensor.long()
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        what = "token ids" if name == "input_ids" else name
        raise ValueError(f"{what} must be integers, got a batch of {tensor.dtype}")
    return tensor.long()


def _aligned(name: str, values: Any, rows: Sequence[Tensor]) -> list[Tensor]:
    found = _split(name, values)
    if len(found) != len(rows):
        raise ValueError(f"{name} must have the shape of input_ids: {len(rows)} rows, got {len(found)}")
    for index, (row, other) in enumerate(zip(rows, found, strict=True)):
        if len(row) != len(other):
            raise ValueError(
                f"{name} must have the shape of input_ids; in row {index} they have a length of {len(other)}, the ids "
                f"of {len(row)}"
            )
    return found


def _unmasked(ids: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    kept = mask.nonzero().flatten()
    if len(kept) and int(kept[-1] - kept[0]) + 1 != len(kept):
        raise ValueError("an attention mask must be one run of ones with padding at its ends; this one has holes")
    return ids[kept], labels[kept]


def _without_padding(ids: Tensor, labels: Tensor, pad: PadToken) -> tuple[Tensor, Tensor]:
    real = (ids != pad.token).nonzero().flatten()
    start, stop = (int(real[0]), int(real[-1]) + 1) if len(real) else (0, 0)
    if not pad.shared:
        return ids[start:stop], labels[start:stop]
    # One such token may begin or end a text; a run of them is padding, and how long can't be known.
    if start > 1 or (len(ids) - stop > 1 and bool((labels[stop:] != IGNORE).any())):
        raise ValueError(
            f"rows begin or end in runs of token {pad.token}, the tokenizer's pad token, which is also its BOS, EOS or "
            "unknown token: padding can't be told from text. Give an attention_mask with the input_ids (all ones if "
            "it is text)"
        )
    return ids, labels


def check_labels(ids_ST: Tensor, labels_ST: Tensor) -> None:
    """Raise unless labels are the token ids where they count."""
    if labels_ST.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"labels must be integers, got {labels_ST.dtype}")
    # Position 0 never counts, whatever its label is.
    wrong_ST = (labels_ST != IGNORE) & (labels_ST != ids_ST)
    if not bool(wrong_ST[:, 1:].any()):
        return
    following_ST = ids_ST[:, 1:]
    shifted = ((labels_ST[:, :-1] == following_ST) | (labels_ST[:, :-1] == IGNORE)).all()
    found = "these are shifted beforehand, labels[t] being the token at t + 1" if shifted else "these differ"
    raise ValueError(
        f"labels must be the token ids themselves, or {IGNORE} where a token isn't scored: each is compared with what "
        f"the tokens before it predict; {found}. Give labels=input_ids, with {IGNORE} where a token isn't scored"
    )

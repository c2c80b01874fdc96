"""Batches -> rows without padding, and what the model takes beside them.

Shapes: B rows of a batch, T tokens, t tokens of one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from layershap.calibration.batches import IGNORE, PadToken, no_record, rows_of
from layershap.calibration.sources import MOST_TOKENS, is_sized, text_tokenizer
from layershap.inputs import batch_inputs, joined_inputs

Row = tuple[Tensor, Tensor]

_PLACEHOLDERS = ("image_token_id", "video_token_id", "audio_token_id")
"""Attributes of a processor: the tokens in whose places the model puts features of images or sound."""


def read_batches(
    batches: Iterable[Any], tokenizer: Any, names: Sequence[str]
) -> tuple[list[Row], dict[str, Tensor], dict[str, Any]]:
    """Rows (ids [t], labels [t]) of all batches, their inputs, and the provenance; see `Calibration.from_batches`."""
    pad = None if tokenizer is None else PadToken.of(text_tokenizer(tokenizer))
    endless = not is_sized(batches)
    rows: list[Row] = []
    inputs: list[tuple[int, dict[str, Tensor]]] = []
    by_token: dict[str, list[Tensor]] = {}
    n_tokens = n_empty = 0
    for batch in no_record(batches):
        found = rows_of(batch, pad)
        own = batch_inputs(batch, names)
        if own:
            shape = torch.as_tensor(batch["input_ids"]).shape
            for name in [name for name, value in own.items() if value.shape == shape]:
                by_token.setdefault(name, []).extend(_unpadded(name, own.pop(name), batch, found))
            inputs.append((len(found), own))
            found = [_without_placeholders(row, tokenizer) for row in found]
        rows.extend(row for row in found if len(row[0]))
        n_empty += sum(not len(ids) for ids, _ in found)
        n_tokens += sum(len(ids) for ids, _ in found)
        if endless and n_tokens > MOST_TOKENS:
            raise ValueError(
                f"a stream of batches has no end after {n_tokens:,} tokens; give a part of it, such as "
                "stream.take(1000) or itertools.islice(batches, 100)"
            )
    if not rows:
        empty = f": all its {n_empty} rows are" if n_empty else ": the iterable gave no batches"
        raise ValueError(f"calibration is empty{empty}")
    if n_empty and names:
        raise ValueError(f"rows with inputs must have tokens, {n_empty} are empty; leave them out of the batches")
    provenance: dict[str, Any] = {"source": "batches", "bos": "as given"}
    stacked = joined_inputs(inputs) if inputs else {}
    stacked |= {name: pad_sequence(values, batch_first=True) for name, values in by_token.items()}
    return rows, stacked, provenance | ({"empty_rows": n_empty} if n_empty else {})


def _unpadded(name: str, value: Tensor, batch: Mapping[str, Any], found: Sequence[Row]) -> list[Tensor]:
    """The rows [t] of an input that has a value for each token, without the padding that the ids are without."""
    if all(len(ids) == value.shape[1] for ids, _ in found):
        return list(value)
    if batch.get("attention_mask") is None:
        raise ValueError(f"padded rows with {name!r}, which has a value for each token, need an attention_mask")
    return [kept for kept, _ in rows_of({"input_ids": value, "attention_mask": batch["attention_mask"]})]


def _without_placeholders(row: Row, processor: Any) -> Row:
    """The row, its tokens that stand for images or sound not scored."""
    ids, labels = row
    tokens = [token for name in _PLACEHOLDERS if isinstance(token := getattr(processor, name, None), int)]
    stands = torch.isin(ids, torch.tensor(tokens, dtype=ids.dtype))
    return ids, torch.where(stands, IGNORE, labels)

"""Batches of tokens as loaders give them -> rows of (ids, labels) without padding.

Shapes: B rows of a batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

IGNORE = -100
"""Label of a position that doesn't count (torch's and transformers' convention)."""


def rows_of(batch: Any) -> list[tuple[Tensor, Tensor]]:
    """Rows of one batch; an attention mask cuts the padding off."""
    if isinstance(batch, Mapping) or hasattr(batch, "input_ids"):
        fields = batch if isinstance(batch, Mapping) else vars(batch)
        if "input_ids" not in fields:
            raise ValueError(f"a calibration batch must have 'input_ids', got keys {sorted(fields)}")
        ids, mask, labels = fields["input_ids"], fields.get("attention_mask"), fields.get("labels")
    else:
        parts = batch if isinstance(batch, tuple | list) and isinstance(batch[0], Tensor) else (batch,)
        ids, mask, labels = parts[0], None, None
    ids_BT = torch.as_tensor(ids).cpu()
    if ids_BT.is_floating_point():
        raise ValueError(f"token ids must be integers, got a batch of {ids_BT.dtype}")
    ids_BT = ids_BT.long().reshape(-1, ids_BT.shape[-1])
    labels_BT = ids_BT if labels is None else torch.as_tensor(labels).cpu().long().reshape(ids_BT.shape)
    mask_BT = torch.ones_like(ids_BT) if mask is None else torch.as_tensor(mask).cpu().long().reshape(ids_BT.shape)
    rows = []
    for row_ids, row_labels, row_mask in zip(ids_BT, labels_BT, mask_BT, strict=True):
        kept = row_mask.nonzero().flatten()
        if len(kept) and int(kept[-1] - kept[0]) + 1 != len(kept):
            raise ValueError("an attention mask must be one run of ones with padding at its ends; this one has holes")
        rows.append((row_ids[kept], row_labels[kept]))
    return rows

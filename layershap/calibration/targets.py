"""Calibration data of encoder-decoder models: what the encoder reads, and the target tokens that are scored.

Shapes: S sequences, B rows of a batch, T target tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from layershap.calibration.batches import IGNORE
from layershap.calibration.blocks import Calibration
from layershap.inputs import joined_inputs
from layershap.limits import check_int

_OF_THE_DECODER = ("labels", "decoder_input_ids", "decoder_attention_mask")


def from_targets(batches: Iterable[Any], *, start_token: int | None = None) -> Calibration:
    """Sequences for an encoder-decoder model: its decoder is scored on target tokens, given the encoder's input.

    Parameters
    ----------
    batches : iterable of mappings
        As collators for sequence-to-sequence training make them. ``labels`` [B, T] are the target tokens, `IGNORE`
        where padding is; every other tensor is an argument of the model's forward: ``input_ids`` and
        ``attention_mask`` of a text, ``input_features`` of a sound, ``pixel_values`` of an image.
    start_token : int, optional
        Token that the decoder begins with (``model.config.decoder_start_token_id``). Needed unless the batches have
        ``decoder_input_ids``, whose first token it then is.

    Returns
    -------
    Calibration
        Start token and targets as sequences, of which the targets are scored; the rest as `Calibration.inputs`.

    Raises
    ------
    ValueError
        A batch without labels or without an input; targets with holes; no start token; ``decoder_input_ids`` that
        aren't the labels, moved by one position.

    See Also
    --------
    Calibration.from_batches : Models that read and continue one sequence.

    Examples
    --------
    >>> import torch
    >>> from layershap.calibration import from_targets
    >>> text = torch.tensor([[5, 6, 7, 1], [8, 9, 1, 0]])
    >>> targets = torch.tensor([[21, 22, 1], [23, 1, -100]])
    >>> batch = {"input_ids": text, "attention_mask": (text != 0).long(), "labels": targets}
    >>> from_targets([batch], start_token=0).ids_ST.tolist()
    [[0, 21, 22, 1], [0, 23, 1, 0]]
    """
    if isinstance(batches, Mapping):
        batches = [batches]
    rows: list[tuple[Tensor, Tensor]] = []
    inputs: list[tuple[int, dict[str, Tensor]]] = []
    for batch in batches:
        if not isinstance(batch, Mapping) or "labels" not in batch:
            keys = sorted(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
            raise ValueError(f"a batch must be a mapping with 'labels', the target tokens [B, T]; got {keys}")
        labels_BT = torch.as_tensor(batch["labels"]).cpu().long()
        rows += [
            _row(labels_T, start_T) for labels_T, start_T in zip(labels_BT, _starts(batch, labels_BT, start_token))
        ]
        own = {name: torch.as_tensor(value).cpu() for name, value in batch.items() if name not in _OF_THE_DECODER}
        if not own:
            raise ValueError(
                f"a batch must hold what the encoder reads ('input_ids', 'input_features', 'pixel_values', ...), got "
                f"{sorted(map(str, batch))}"
            )
        inputs.append((len(labels_BT), own))
    if not rows:
        raise ValueError("calibration is empty: the iterable gave no batches")
    return replace(Calibration.from_rows(rows, {"source": "targets"}), inputs=joined_inputs(inputs))


def _starts(batch: Mapping[str, Any], labels_BT: Tensor, start_token: int | None) -> Tensor:
    """The first token of each row [B, 1]; decoder_input_ids, if there are any, are compared with the labels."""
    given = batch.get("decoder_input_ids")
    if given is None:
        if start_token is None:
            raise ValueError(
                "targets need the token that the decoder begins with: "
                "from_targets(batches, start_token=model.config.decoder_start_token_id)"
            )
        return torch.full_like(labels_BT[:, :1], check_int("start_token", start_token, 0))
    ids_BT = torch.as_tensor(given).cpu().long()
    before_BT = labels_BT[:, :-1]
    if ids_BT.shape != labels_BT.shape or bool(((ids_BT[:, 1:] != before_BT) & (before_BT != IGNORE)).any()):
        raise ValueError(
            "decoder_input_ids must be the labels moved by one position, with the start token before them; leave them "
            "out and give start_token"
        )
    return ids_BT[:, :1]


def _row(labels_T: Tensor, start_1: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and labels [t + 1] of one row without its padding."""
    scored = (labels_T != IGNORE).nonzero().flatten()
    if not len(scored) or len(scored) != int(scored[-1]) + 1:
        raise ValueError(
            f"targets must be tokens with {IGNORE} behind them only; got {len(scored)} tokens with {IGNORE} before or "
            "between them"
        )
    targets_T = labels_T[: len(scored)]
    return torch.cat([start_1, targets_T]), torch.cat([torch.full_like(start_1, IGNORE), targets_T])

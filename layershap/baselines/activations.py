"""Hidden states at the boundaries of the layers, for the methods that look at these.

Shapes: B sequences of a block, T tokens, D hidden size, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from layershap.calibration import IGNORE, Calibration
from layershap.calibration.readable import check_readable
from layershap.exceptions import UnsupportedModelError
from layershap.inputs import refuse_inputs
from layershap.model.io import evaluation_mode, input_device
from layershap.model.states import states_at
from layershap.model.sublayers import Players

_BLOCK_TOKENS = 2048


def token_blocks(model: nn.Module, calibration: Calibration) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and labels [B, T] of a few sequences at a time, on the model's device; an error if it can't read them."""
    refuse_inputs(calibration.inputs, "this method")
    check_readable(model, calibration)
    device = input_device(model)
    rows = max(1, _BLOCK_TOKENS // calibration.seq_len)
    for ids_BT, labels_BT in zip(calibration.ids_ST.split(rows), calibration.labels_ST.split(rows), strict=True):
        yield ids_BT.to(device), labels_BT.to(device)


def boundary_states(
    model: nn.Module, stack: Players, calibration: Calibration
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Run all layers of a model on a few sequences at a time.

    Yields
    ------
    states : list of L + 1 tensors [B, T, D] in float32
        The hidden states that enter each layer, and at last those that leave the last one (before the final norm).
    counted_BT : Tensor [B, T] of bool
        False for padding and ignored tokens.
    """
    with torch.inference_mode(), evaluation_mode(model):
        for ids_BT, labels_BT in token_blocks(model, calibration):
            found = states_at(model, stack, ids_BT, range(len(stack) + 1))
            yield [_flat(found[boundary], ids_BT) for boundary in sorted(found)], labels_BT != IGNORE


def _flat(hidden: Tensor, ids_BT: Tensor) -> Tensor:
    if hidden.shape[:2] != ids_BT.shape:
        raise UnsupportedModelError(
            f"this method reads hidden states [B, T, ...]; the model's have shape {tuple(hidden.shape)} for ids of "
            f"shape {tuple(ids_BT.shape)}"
        )
    return hidden.flatten(2).to(torch.float32)

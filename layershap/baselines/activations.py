"""Hidden states at the boundaries of the layers, for the methods that look at these.

Shapes: B sequences of a block, T tokens, D hidden size, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from layershap.calibration import IGNORE, Calibration
from layershap.exceptions import UnsupportedModelError
from layershap.model.calls import patched
from layershap.model.io import evaluation_mode, input_device, token_logits
from layershap.model.sublayers import Players

_BLOCK_TOKENS = 2048


def token_blocks(calibration: Calibration, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and labels [B, T] of a few sequences at a time, on a device."""
    rows = max(1, _BLOCK_TOKENS // calibration.seq_len)
    for ids_BT, labels_BT in zip(calibration.ids_ST.split(rows), calibration.labels_ST.split(rows), strict=True):
        yield ids_BT.to(device), labels_BT.to(device)


def boundary_states(
    model: nn.Module, stack: Players, calibration: Calibration
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Run the whole model on a few sequences at a time.

    Yields
    ------
    states : list of L + 1 tensors [B, T, D] in float32
        The hidden states that enter each layer, and at last those that leave the last one (before the final norm).
    counted_BT : Tensor [B, T] of bool
        False for padding and ignored tokens.
    """
    with torch.inference_mode(), evaluation_mode(model):
        for ids_BT, labels_BT in token_blocks(calibration, input_device(model)):
            found = _capture(model, stack, ids_BT)
            yield found, labels_BT != IGNORE


def _capture(model: nn.Module, stack: Players, ids_BT: Tensor) -> list[Tensor]:
    entering: dict[int, Tensor] = {}
    leaving: list[Tensor] = []

    def record(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
        form = stack.forms[index]

        def forward(*args: Any, **kwargs: Any) -> Any:
            entering[index] = _flat(form.hidden_from(args, kwargs), ids_BT)
            output = original(*args, **kwargs)
            leaving[:] = [_flat(form.hidden_of(output), ids_BT)]
            return output

        return forward

    with patched(stack.layers, record):
        token_logits(model, ids_BT)
    states = leaving
    for index in reversed(range(len(stack))):
        # A layer that text does not reach (mllama's cross-attention) leaves the state as it is.
        states = [entering.get(index, states[0]), *states]
    return states


def _flat(hidden: Tensor, ids_BT: Tensor) -> Tensor:
    if hidden.shape[:2] != ids_BT.shape:
        raise UnsupportedModelError(
            f"this method reads hidden states [B, T, ...]; the model's have shape {tuple(hidden.shape)} for ids of "
            f"shape {tuple(ids_BT.shape)}"
        )
    # A copy: some layers add to their input in place.
    return hidden.flatten(2).to(torch.float32, copy=True)

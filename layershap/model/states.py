"""Hidden states of a whole model at the boundaries of its layers.

Shapes: B rows, T tokens, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from layershap.model.io import token_logits
from layershap.model.patching import patched
from layershap.model.sublayers import Players


class _Enough(Exception):
    """The last state that was asked for is there: the rest of the forward need not run."""


def states_at(model: nn.Module, stack: Players, ids_BT: Tensor, boundaries: Collection[int]) -> dict[int, Tensor]:
    """Run a model as far as some boundaries of its layers.

    Parameters
    ----------
    model : nn.Module
        The model, in evaluation mode.
    stack : LayerStack or SublayerStack
        Its L layers.
    ids_BT : Tensor [B, T]
        Token ids on the model's device.
    boundaries : collection of int
        Boundary b is what enters layer b; L is what leaves the last one, before the final norm.

    Returns
    -------
    dict of int to Tensor
        Copies of the hidden states, in the layout of the model: some layers add to their input in place. A layer that
        text does not reach (mllama's cross-attention) leaves the state as it is.
    """
    wanted = sorted(set(boundaries))
    n_layers = len(stack.layers)
    found: dict[int, Tensor] = {}
    left: list[Tensor] = []

    def enters(index: int, hidden: Tensor) -> None:
        for boundary in wanted:
            if boundary <= index and boundary not in found:
                found[boundary] = hidden.clone()
        if len(found) == len(wanted):
            raise _Enough

    def record(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
        form = stack.forms[index]

        def forward(*args: Any, **kwargs: Any) -> Any:
            enters(index, form.hidden_from(args, kwargs))
            output = original(*args, **kwargs)
            if index + 1 == n_layers:
                enters(n_layers, form.hidden_of(output))
            left[:] = [form.hidden_of(output).clone()] if wanted[-1] == n_layers else []
            return output

        return forward

    with suppress(_Enough):
        with patched(stack.layers, record):
            token_logits(model, ids_BT)
        enters(n_layers, left[0])  # the last layers were not called
    return found

"""Capture one real forward, then call single layers on other hidden states and other batch sizes.

What the parent model passes to each layer (masks chosen by layer type, rotary tables, per-layer inputs) is kept from a
real forward with all layers; what comes before the first layer and after the last is run by the model's own code. So
nothing is re-implemented per family. What has to grow with the batch is not guessed from shapes but observed: a
forward of two rows is compared with one of three.

Shapes: B rows of a block, T tokens, D hidden size, V vocabulary, R states concatenated along the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from layershap.calls import patched
from layershap.model_io import token_logits
from layershap.sublayers import Players

Batching: TypeAlias = "int | dict[Any, Batching] | None"
"""Which dimension of an argument grows with the batch: a tensor's dimension, None, or the same for each element."""


class ReplayError(Exception):
    """Layers can't be replayed from a capture; the plain path serves the model."""


@dataclass
class LayerCall:
    """The arguments of one layer's call, with None in the place of the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class Capture:
    """One forward of the whole model on a block of calibration sequences.

    Attributes
    ----------
    ids_BT : Tensor [B, T]
        The block's tokens.
    calls : list of LayerCall
        One per layer.
    first : Tensor
        Hidden states before the first layer.
    final : Tensor
        Hidden states after the last layer.
    """

    ids_BT: Tensor
    calls: list[LayerCall]
    first: Tensor
    final: Tensor
    _expanded: dict[tuple[int, int], Any] = field(default_factory=dict)

    def expanded(self, value: Any, batching: Batching, repeats: int) -> Any:
        """An argument as it would be for `repeats` copies of the block, one after the other along the batch."""
        if repeats == 1 or batching is None:
            return value
        if isinstance(batching, dict):
            if isinstance(value, dict):
                return {k: self.expanded(v, batching.get(k), repeats) for k, v in value.items()}
            parts = [self.expanded(v, batching.get(i), repeats) for i, v in enumerate(value)]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        # Layers share most of their arguments, so an expansion is worth keeping while `value` lives (in `calls`).
        key = (id(value), repeats)
        if key not in self._expanded:
            self._expanded[key] = torch.cat([value] * repeats, dim=batching)
        return self._expanded[key]

    def forget_expanded(self) -> None:
        """Free what `expanded` has kept."""
        self._expanded.clear()


class Replay:
    """The layers of a model as functions of a hidden state.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode while this is used, as are gradients off.
    stack : LayerStack or SublayerStack
        The players: its layers or their sublayers.
    ids_ST : Tensor [S, T]
        Calibration tokens on the model's device: rows of these are used to observe what grows with the batch.

    Raises
    ------
    ReplayError
        The calls differ between batch sizes in another way than one growing dimension per tensor.
    """

    def __init__(self, model: nn.Module, stack: Players, ids_ST: Tensor) -> None:
        self.model = model
        self.stack = stack
        row = ids_ST[:1]
        two, three = self.capture(row.expand(2, -1)), self.capture(row.expand(3, -1))
        self._batching = [
            (
                {i: _batching(a, b) for i, (a, b) in enumerate(zip(x.args, y.args, strict=True))},
                {k: _batching(x.kwargs[k], y.kwargs[k]) for k in x.kwargs},
            )
            for x, y in zip(two.calls, three.calls, strict=True)
        ]
        dim = _batching(two.final, three.final)
        if not isinstance(dim, int):
            raise ReplayError(f"hidden states of shape {tuple(two.final.shape)} have no batch dimension")
        self.batch_dim = dim
        # Token slices of the head need hidden states [B, T, ...].
        self.sliceable = dim == 0 and two.final.dim() >= 3 and two.final.shape[1] == ids_ST.shape[1]

    def capture(self, ids_BT: Tensor) -> Capture:
        """Run the whole model once on a block and keep what each layer was given."""
        calls: list[LayerCall] = []
        ends: dict[str, Tensor] = {}
        last = len(self.stack.layers) - 1

        def record(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
            form = self.stack.forms[index]

            def forward(*args: Any, **kwargs: Any) -> Any:
                if index == 0:
                    ends["first"] = form.hidden_from(args, kwargs)
                output = original(*args, **kwargs)
                if index == last:
                    ends["final"] = form.hidden_of(output)
                # Keeping every layer's input would cost L hidden states.
                calls.append(
                    LayerCall(
                        tuple(None if i == form.hidden else value for i, value in enumerate(args)),
                        {key: None if key == form.hidden else value for key, value in kwargs.items()},
                    )
                )
                return output

            return forward

        with patched(self.stack.layers, record):
            token_logits(self.model, ids_BT)
        if len(calls) != len(self.stack.layers):
            raise ReplayError(f"the model calls {len(calls)} of its {len(self.stack.layers)} layers on text")
        return Capture(ids_BT, calls, ends["first"], ends["final"])

    def run_player(self, player: int, hidden: Tensor, capture: Capture, repeats: int) -> Tensor:
        """One layer (or one sublayer of it) on `repeats` states of a block, concatenated along the batch dimension."""
        layer = self.stack.layer_of(player)
        form = self.stack.forms[layer]
        call = capture.calls[layer]
        args_batching, kwargs_batching = self._batching[layer]
        args = [
            hidden if i == form.hidden else capture.expanded(value, args_batching[i], repeats)
            for i, value in enumerate(call.args)
        ]
        kwargs = {
            key: hidden if key == form.hidden else capture.expanded(value, kwargs_batching[key], repeats)
            for key, value in call.kwargs.items()
        }
        with self.stack.alone(player):
            return form.hidden_of(self.stack.layers[layer](*args, **kwargs))

    def head(self) -> Head:
        """A context in which final hidden states go through the model's own norm and LM head."""
        return Head(self)


class Head:
    """Inside the context the parent's forward passes a given state to whatever follows the last layer."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._state: Tensor | None = None
        self._patch: AbstractContextManager[None] | None = None

    def __enter__(self) -> Head:
        stack = self._replay.stack
        last = len(stack.layers) - 1

        def give(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
            form = stack.forms[index]

            def forward(*args: Any, **kwargs: Any) -> Any:
                hidden = self._state if index == last else form.hidden_from(args, kwargs)
                assert hidden is not None
                return form.wrap(hidden, args, kwargs)

            return forward

        self._patch = patched(stack.layers, give)
        self._patch.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        assert self._patch is not None
        self._patch.__exit__(*exc_info)
        self._state = None

    def logits(self, state: Tensor, ids_BT: Tensor) -> Tensor:
        """Logits [B, T, V] of final hidden states; `ids_BT` are the tokens they belong to."""
        self._state = state
        return token_logits(self._replay.model, ids_BT)


def _batching(two: Any, three: Any) -> Batching:
    """Compare an argument for a batch of two with the same for three."""
    if isinstance(two, Tensor) and isinstance(three, Tensor):
        if two.dim() != three.dim():
            raise ReplayError(f"an argument has shape {tuple(two.shape)} for two rows, {tuple(three.shape)} for three")
        growing = [d for d in range(two.dim()) if two.shape[d] != three.shape[d]]
        if not growing:
            return None
        if len(growing) > 1 or two.shape[growing[0]] * 3 != three.shape[growing[0]] * 2:
            raise ReplayError(f"an argument grows from {tuple(two.shape)} to {tuple(three.shape)} for a third row")
        return growing[0]
    if isinstance(two, dict) and isinstance(three, dict):
        found = {key: _batching(two[key], three[key]) for key in two}
    elif isinstance(two, tuple | list) and isinstance(three, tuple | list) and len(two) == len(three):
        found = {index: _batching(a, b) for index, (a, b) in enumerate(zip(two, three, strict=True))}
    else:
        return None
    return found if any(value is not None for value in found.values()) else None

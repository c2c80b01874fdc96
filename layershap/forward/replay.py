"""Capture one real forward, then call single layers on other states.

What the parent model passes to each layer (masks chosen by layer type, rotary tables, per-layer inputs) is kept from a
real forward with all layers; what comes before the first layer and after the last is run by the model's own code. So
nothing is re-implemented per family.

Shapes: B rows of a block, T tokens, S calibration sequences, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from layershap.forward.state import State
from layershap.model.calls import ArgumentKey
from layershap.model.io import base_model, logits_of, token_logits
from layershap.model.patching import patched
from layershap.model.sublayers import Players


@dataclass
class LayerCall:
    """The arguments of one layer's call, by position or keyword, without those that belong to the state."""

    arguments: dict[ArgumentKey, Any]
    state_keys: tuple[ArgumentKey, ...]


@dataclass
class Capture:
    """One forward of the whole model on a block of calibration sequences.

    Attributes
    ----------
    ids_BT : Tensor [B, T]
        The block's tokens.
    calls : dict of int to LayerCall
        By layer; layers that text does not reach (mllama's cross-attention) are missing.
    first : State
        Before the first layer.
    final : State or None
        After the last layer; None once nobody needs it.
    """

    ids_BT: Tensor
    calls: dict[int, LayerCall]
    first: State
    final: State | None


class Replay:
    """The layers of a model as functions of a state.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode while this is used, as are gradients off.
    stack : LayerStack or SublayerStack
        The players: its layers or their sublayers.
    ids_ST : Tensor [S, T]
        Calibration tokens on the model's device: a row of these is observed.

    Attributes
    ----------
    sliceable : bool
        Whether hidden states are [B, T, ...], so that the head can take some tokens at a time.
    """

    def __init__(self, model: nn.Module, stack: Players, ids_ST: Tensor) -> None:
        self.model = model
        self.stack = stack
        self._returned = dict.fromkeys(key for form in stack.forms for _, key in form.carried)
        # Mappings that the layers write into, with their class: accelerate copies a plain dict, but not transformers'.
        # The first capture learns which these are, and holds them as constants itself: it is good for nothing else.
        self._shared: dict[ArgumentKey, Callable[..., MutableMapping[Any, Any]]] = {}
        length = ids_ST.shape[1]
        rows = 2 if length != 2 else 3  # unlike the length, so that [B, T] can't be taken for [T, B]
        # Nobody reads the logits of a capture: those of one token are enough.
        named = "logits_to_keep" in inspect.signature(type(base_model(model)).forward).parameters
        self._fewer: dict[str, Any] = {"logits_to_keep": 1} if named else {}
        probe_BT = ids_ST[:1].expand(rows, -1)
        seen = self.capture(probe_BT)
        if self._fewer and seen.final is not None and seen.final.hidden.shape != seen.first.hidden.shape:
            # Some models spare their last layers the tokens whose logits aren't asked for (Gemma 4).
            self._fewer = {}
            seen = self.capture(probe_BT)
        final = seen.final
        assert final is not None  # for the type checker
        # Layers not called on text hand over nothing; the last that is called does.
        self._last = max(seen.calls)
        self.sliceable = final.hidden.dim() >= 3 and final.hidden.shape[:2] == (rows, length) and not final.carried

    def capture(self, ids_BT: Tensor) -> Capture:
        """Run the whole model once on a block and keep what each layer was given."""
        calls: dict[int, LayerCall] = {}
        ends: dict[str, State] = {}

        def record(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
            form = self.stack.forms[index]

            def forward(*args: Any, **kwargs: Any) -> Any:
                arguments = _arguments(args, kwargs)
                if not calls:
                    ends["first"] = State(form.hidden_from(args, kwargs), self._carried(arguments))
                entries = {key: dict(value) for key, value in arguments.items() if isinstance(value, MutableMapping)}
                output = original(*args, **kwargs)
                self._shared.update(
                    {key: type(arguments[key]) for key, old in entries.items() if _changed(old, arguments[key])}
                )
                # Keeping every layer's state would cost L hidden states.
                own = {form.hidden, *self._returned, *self._shared}
                calls[index] = LayerCall(
                    {key: value for key, value in arguments.items() if key not in own},
                    tuple(key for key in arguments if key in own),
                )
                ends["final"] = self._after(index, output, arguments)
                return output

            return forward

        with patched(self.stack.layers, record):
            logits_of(self.model, ids_BT, self._fewer)
        return Capture(ids_BT, calls, ends["first"], ends["final"])

    def run_player(self, player: int, state: State, capture: Capture) -> State:
        """One layer (or one sublayer of it) on a state of a block."""
        layer = self.stack.layer_of(player)
        call = capture.calls.get(layer)
        if call is None:
            return state
        form = self.stack.forms[layer]
        arguments = dict(call.arguments)
        for key in call.state_keys:
            value = state.hidden if key == form.hidden else state.carried[key]
            # A layer writes into the mapping it is given, so it gets one of its own.
            arguments[key] = self._shared[key](value) if key in self._shared else value
        args = [arguments[key] for key in sorted(key for key in arguments if isinstance(key, int))]
        kwargs = {key: value for key, value in arguments.items() if isinstance(key, str)}
        with self.stack.only(player):
            return self._after(layer, self.stack.layers[layer](*args, **kwargs), arguments)

    @contextmanager
    def head(self) -> Iterator[Callable[[State, Tensor], Tensor]]:
        """A context with a function (state after the last layer, its tokens [B, T]) -> logits [B, T, V].

        The parent's own forward runs with layers that do nothing, the last of which hands over the state: so norm,
        scaling, soft-capping and LM head are the model's own.
        """
        current: list[State] = []

        def give(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
            form = self.stack.forms[index]

            def forward(*args: Any, **kwargs: Any) -> Any:
                if index != self._last:
                    return form.wrap(form.hidden_from(args, kwargs), args, kwargs)
                return form.output(current[0].hidden, current[0].carried)

            return forward

        def logits(state: State, ids_BT: Tensor) -> Tensor:
            current[:] = [state]
            return token_logits(self.model, ids_BT)

        with patched(self.stack.layers, give):
            yield logits

    def _carried(self, arguments: dict[ArgumentKey, Any]) -> dict[ArgumentKey, Any]:
        """What a call's arguments hold of the state beside the hidden states."""
        returned = {key: arguments.get(key) for key in self._returned}
        return returned | {key: dict(arguments.get(key) or {}) for key in self._shared}

    def _after(self, layer: int, output: Any, arguments: dict[ArgumentKey, Any]) -> State:
        """The state that a layer's output and arguments make."""
        form = self.stack.forms[layer]
        carried = self._carried(arguments) | {key: output[index] for index, key in form.carried}
        return State(form.hidden_of(output), carried)


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[ArgumentKey, Any]:
    """A call's arguments by position or keyword."""
    return dict(enumerate(args)) | dict(kwargs.items())


def _changed(before: dict[Any, Any], after: MutableMapping[Any, Any]) -> bool:
    return before.keys() != after.keys() or any(before[key] is not after[key] for key in before)

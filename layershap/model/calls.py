"""How a parent model calls its layers: learned from a probe forward.

Shapes: B rows, T tokens, L layers, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from layershap.exceptions import UnsupportedModelError
from layershap.model.agreement import MODEL_ERRORS
from layershap.model.io import input_device, is_encoder_decoder, vocabulary_size
from layershap.model.patching import evaluation_mode
from layershap.model.patching import patched as patched
from layershap.model.samples import reads_tokens, sample_logits
from layershap.model.skeleton import on_meta_device, shapes_only

ArgumentKey: TypeAlias = "int | str"

_PROBE_TOKENS = 8


@dataclass(frozen=True)
class CallForm:
    """How a parent calls a layer and what it expects back, learned from a probe forward.

    Attributes
    ----------
    hidden : int or str
        Position or keyword of the hidden states among the layer's arguments.
    container : type or None
        None if the layer returns a tensor, else the tuple or list type that it returns.
    length : int
        Number of elements of that container.
    carried : tuple of (int, key)
        Output elements that the parent hands to the next layer, with the argument that receives each. A skipped layer
        passes these through.
    state : int or str, optional
        Argument that holds a recurrent state, of which output element 1 tells the parent (rwkv, xlstm). A skipped layer
        gives back what it was given.
    """

    hidden: ArgumentKey
    container: type | None
    length: int
    carried: tuple[tuple[int, ArgumentKey], ...]
    state: ArgumentKey | None = None

    def hidden_from(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        """The hidden states among a call's arguments."""
        return _argument(args, kwargs, self.hidden)

    def hidden_of(self, output: Any) -> Tensor:
        """The hidden states in a layer's output."""
        return output if self.container is None else output[0]

    def wrap(self, hidden: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """An output of the right kind that holds `hidden` and passes carried elements through."""
        carried = {key: _argument(args, kwargs, key) for _, key in self.carried}
        return self.output(hidden, carried, None if self.state is None else _argument(args, kwargs, self.state))

    def output(self, hidden: Tensor, carried: Mapping[ArgumentKey, Any], state: Any = None) -> Any:
        """An output of the right kind that holds `hidden` and the carried elements, by the key that receives each."""
        if self.container is None:
            return hidden
        values: list[Any] = [hidden] + [None] * (self.length - 1)
        if self.state is not None:
            values[1] = state
        for index, key in self.carried:
            values[index] = carried[key]
        if hasattr(self.container, "_fields"):
            return self.container(*values)
        return self.container(values)


def _argument(args: Sequence[Any], kwargs: dict[str, Any], key: ArgumentKey) -> Any:
    if isinstance(key, int):
        return args[key] if key < len(args) else None
    return kwargs.get(key)


class ProbeMismatch(Exception):
    """The modules are not called as a chain of layers."""


def probe_ids(model: nn.Module, device: torch.device | None = None) -> Tensor:
    """Two short rows of token ids [B, T] that differ in their last token, on the model's device by default."""
    vocabulary = vocabulary_size(model) or 2
    ids_BT = torch.arange(_PROBE_TOKENS, device="cpu").remainder(vocabulary).repeat(2, 1)
    ids_BT[1, -1] = (int(ids_BT[1, -1]) + 1) % vocabulary
    return ids_BT.to(input_device(model) if device is None else device)


def probe_calls(model: nn.Module, modules: tuple[nn.Module, ...], causal: bool) -> tuple[CallForm, ...]:
    """How each module is called, from a probe forward that also checks their order and the model's causality."""
    ids_BT = probe_ids(model)
    calls: list[tuple[int, tuple[Any, ...], dict[str, Any], Any]] = []

    def record(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            calls.append((index, args, kwargs, output))
            return output

        return forward

    with evaluation_mode(model), torch.inference_mode(), shapes_only(model), patched(modules, record):
        try:
            logits = sample_logits(model, ids_BT)
        except MODEL_ERRORS as error:
            if isinstance(error, RuntimeError) and on_meta_device(model):
                raise UnsupportedModelError(
                    f"this {type(model).__name__} is on the meta device, where its forward fails ({error}): it asks "
                    "for values. Load the weights, or (experts) choose another implementation or dtype"
                ) from error
            if isinstance(error, UnsupportedModelError) or (reads_tokens(model) and not is_encoder_decoder(model)):
                raise
            raise UnsupportedModelError(
                f"{type(model).__name__} can't be probed: its forward fails on an input made up by its config "
                f"({type(error).__name__}: {error})"
            ) from error
    order = [index for index, *_ in calls]
    called_types = {type(modules[index]) for index in order}
    silent = [index for index in range(len(modules)) if index not in order]
    # Layers of another kind may be left out for want of their input (mllama: cross-attention on text without images).
    if any(type(modules[index]) in called_types for index in silent) or not order or order != sorted(set(order)):
        raise ProbeMismatch(f"its {len(modules)} modules are called in the order {order}, not once each in turn")
    # On the meta device there is nothing to compare: the shapes have to do.
    if causal and (logits.dim() != 3 or logits.shape[:2] != ids_BT.shape):
        raise UnsupportedModelError(
            f"{type(model).__name__} predicts no tokens: it gives logits of shape {tuple(logits.shape)} for ids of "
            f"shape {tuple(ids_BT.shape)}. Its layers can be removed, and scored by a utility that is "
            "a callable f(model)"
        )
    if causal and logits.device.type != "meta" and not _is_causal(logits):
        raise UnsupportedModelError(
            f"{type(model).__name__} is not causal: changing the last token changes the logits of earlier ones, so it "
            "is an encoder or a masked language model. Score it by a utility that is a callable f(model), or pass a "
            "causal language model (for BERT-like models, the LMHead class with config.is_decoder=True)."
        )
    learned: dict[int, CallForm] = {}
    for position, (index, args, kwargs, output) in enumerate(calls):
        following = calls[position + 1] if position + 1 < len(calls) else None
        form = learned[index] = call_form(modules[index], args, kwargs, output, following)
        before, after = form.hidden_from(args, kwargs).shape, form.hidden_of(output).shape
        if before != after:
            raise ProbeMismatch(
                f"layer {index} makes states of shape {tuple(after)} of {tuple(before)}: none can be left out"
            )
    forms = [learned.get(index, learned[order[0]]) for index in range(len(modules))]
    if forms and len(forms) > 1 and forms[-1].container is not None:
        forms[-1] = replace(forms[-1], carried=forms[-2].carried)
    return tuple(forms)


def _is_causal(logits_BTV: Tensor) -> bool:
    """Whether the last token, which alone differs between two rows, leaves the logits of earlier ones alone."""
    change_TV = (logits_BTV[0].float() - logits_BTV[1].float()).abs()
    half = logits_BTV.dtype in (torch.float16, torch.bfloat16)
    return not float(change_TV[:-1].max()) > (5e-2 if half else 1e-4) * float(change_TV[-1].max())


def call_form(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, following: Any
) -> CallForm:
    """The form of one call; `following` is (_, args, kwargs, _) of the next layer's, None for the last."""
    hidden: ArgumentKey = 0 if args and isinstance(args[0], Tensor) else "hidden_states"
    if not isinstance(_argument(args, kwargs, hidden), Tensor):
        raise ProbeMismatch(f"no hidden states among the arguments (keywords {sorted(kwargs)})")
    if isinstance(output, Tensor):
        return CallForm(hidden, None, 1, ())
    if not isinstance(output, tuple | list) or not output or not isinstance(output[0], Tensor):
        raise ProbeMismatch(f"a layer returns {type(output).__name__}, not a tensor or a tuple that starts with one")
    carried: list[tuple[int, ArgumentKey]] = []
    if following is not None:
        _, next_args, next_kwargs, _ = following
        named: list[tuple[ArgumentKey, Any]] = [*enumerate(next_args), *next_kwargs.items()]
        for index, element in enumerate(output[1:], start=1):
            key = next((k for k, value in named if value is element and k != hidden), None)
            if isinstance(element, Tensor) and key is not None:
                carried.append((index, key))
    state = argument_named(module, "state", args, kwargs) if len(output) > 1 else None
    return CallForm(hidden, type(output), len(output), tuple(carried), state)


def argument_named(module: nn.Module, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> ArgumentKey | None:
    """Position or keyword of an argument in a call of `module`, None if the call does not give it."""
    if name in kwargs:
        return name
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    position = names.index(name) if name in names else len(args)
    return position if position < len(args) else None

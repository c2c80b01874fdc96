"""Finding the decoder layers of a model, and skipping some of them.

A transformers parent model decides by itself what to pass to each layer (masks by layer type, rotary tables, per-layer
inputs), so a layer is skipped by giving it another ``forward`` for a while: the parent's loop stays as it is.

Shapes: B rows, T tokens, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from layershap.exceptions import UnsupportedModelError
from layershap.model_io import (
    check_is_model,
    evaluation_mode,
    input_device,
    part_of,
    text_config,
    token_logits,
    vocabulary_size,
)

LayersArgument: TypeAlias = "str | Sequence[nn.Module] | None"
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
    """

    hidden: ArgumentKey
    container: type | None
    length: int
    carried: tuple[tuple[int, ArgumentKey], ...]

    def hidden_from(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        """The hidden states among a call's arguments."""
        return _argument(args, kwargs, self.hidden)

    def hidden_of(self, output: Any) -> Tensor:
        """The hidden states in a layer's output."""
        return output if self.container is None else output[0]

    def wrap(self, hidden: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """An output of the right kind that holds `hidden` and passes carried elements through."""
        return self.output(hidden, {key: _argument(args, kwargs, key) for _, key in self.carried})

    def output(self, hidden: Tensor, carried: Mapping[ArgumentKey, Any]) -> Any:
        """An output of the right kind that holds `hidden` and the carried elements, by the key that receives each."""
        if self.container is None:
            return hidden
        values: list[Any] = [hidden] + [None] * (self.length - 1)
        for index, key in self.carried:
            values[index] = carried[key]
        if hasattr(self.container, "_fields"):
            return self.container(*values)
        return self.container(values)


def _argument(args: Sequence[Any], kwargs: dict[str, Any], key: ArgumentKey) -> Any:
    if isinstance(key, int):
        return args[key] if key < len(args) else None
    return kwargs.get(key)


@dataclass(frozen=True)
class LayerStack:
    """The decoder layers of one model: the players of the game.

    Attributes
    ----------
    path : str
        Dotted path of the layer list inside the model, '' if the modules were given one by one.
    layers : tuple of nn.Module
        The L layers, in the order in which the model calls them.
    forms : tuple of CallForm
        How the parent calls each.
    """

    path: str
    layers: tuple[nn.Module, ...]
    forms: tuple[CallForm, ...]

    def __len__(self) -> int:
        return len(self.layers)


def find_layers(model: nn.Module, layers: LayersArgument = None, *, causal: bool = True) -> LayerStack:
    """Find the decoder layers of a causal language model and check them with a probe forward.

    The rule (measured on 183 transformers model types): inside ``get_decoder()``, the module list as long as the
    config's layer count that holds the most parameters (A); if there is none or the probe disagrees (a vision tower
    as deep as the decoder), the next such list, at last the list that holds the most parameters (B).

    Parameters
    ----------
    model : nn.Module
        Maps token ids [B, T] to logits.
    layers : str or sequence of nn.Module, optional
        Dotted path of the layer list, or the layers themselves, where the rule can't know.
    causal : bool, default=True
        Refuse a model whose earlier logits depend on later tokens. Skipping and removing work for it all the same, its
        next-token scores mean nothing.

    Raises
    ------
    UnsupportedModelError
        No list of layers passes the probe, or the model is not causal.
    """
    check_is_model(model)
    problems = []
    for path, modules in _given(model, layers) if layers is not None else _candidates(model):
        try:
            return LayerStack(path, modules, _probe(model, modules, causal))
        except _ProbeMismatch as error:
            problems.append(f"{path or 'the modules given'}: {error}")
    raise UnsupportedModelError(
        f"no list of decoder layers found in {type(model).__name__}"
        + (f" ({'; '.join(problems)})" if problems else "")
        + ". Name it: layers='dotted.path.of.the.ModuleList', or pass the layer modules in calling order."
    )


class _ProbeMismatch(Exception):
    pass


def _given(model: nn.Module, layers: str | Sequence[nn.Module]) -> Iterator[tuple[str, tuple[nn.Module, ...]]]:
    if isinstance(layers, str):
        try:
            container = model.get_submodule(layers)
        except AttributeError as error:
            lists = [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList | nn.Sequential)]
            raise UnsupportedModelError(
                f"layers={layers!r} is not a module of {type(model).__name__} ({error}); its lists are {lists[:8]}"
            ) from error
        if not isinstance(container, nn.ModuleList | nn.Sequential):
            raise UnsupportedModelError(
                f"layers={layers!r} must name an nn.ModuleList or nn.Sequential, it is a {type(container).__name__}"
            )
        yield layers, tuple(container)
        return
    modules = tuple(layers)
    inside = set(model.modules())
    for index, module in enumerate(modules):
        if not isinstance(module, nn.Module) or module not in inside:
            raise UnsupportedModelError(
                f"layers[{index}] must be a submodule of the {type(model).__name__} given, "
                f"got {type(module).__name__}. (Was it taken from another copy of the model?)"
            )
    yield _common_list(model, modules), modules


def _common_list(model: nn.Module, modules: Sequence[nn.Module]) -> str:
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and tuple(module) == tuple(modules):
            return path
    return ""


def _candidates(model: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, ...]]]:
    lists: list[tuple[str, nn.ModuleList]] = []
    for root in _decoder_roots(model):
        inside = {id(m) for m in root.modules()}
        lists = [
            (path, module)
            for path, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) > 1 and id(module) in inside
        ]
        if lists:
            break
    lists = [item for item in lists if not _is_one_of_parallel_lists(model, item[0])]
    lists.sort(key=lambda item: sum(p.numel() for p in item[1].parameters()), reverse=True)
    config = text_config(getattr(model, "config", None))
    expected = getattr(config, "num_hidden_layers", None)
    by_count = [item for item in lists if len(item[1]) == expected]
    seen: set[str] = set()
    for path, module in by_count + lists[:1]:
        if path not in seen:
            seen.add(path)
            yield path, tuple(module)


def _is_one_of_parallel_lists(model: nn.Module, path: str) -> bool:
    """Whether a layer is spread over several lists of one parent (xlm): then no module is the layer."""
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    own = parent.get_submodule(name)
    return any(
        isinstance(other, nn.ModuleList)
        and other is not own
        and len(other) == len(list(own.children()))
        and next(other.parameters(), None) is not None
        for other in parent.children()
    )


def _decoder_roots(model: nn.Module) -> Iterator[nn.Module]:
    decoder = part_of(model, "get_decoder")
    if decoder is not None:
        yield decoder
    base = getattr(model, "base_model", None)
    if isinstance(base, nn.Module):
        yield base
    yield model


def _probe(model: nn.Module, modules: tuple[nn.Module, ...], causal: bool) -> tuple[CallForm, ...]:
    """Run two short rows that differ in their last token: learn the calls, and check order and causality."""
    vocabulary = vocabulary_size(model) or 2
    ids_BT = torch.arange(_PROBE_TOKENS, device=input_device(model)).remainder(vocabulary).repeat(2, 1)
    ids_BT[1, -1] = (int(ids_BT[1, -1]) + 1) % vocabulary
    calls: list[tuple[int, tuple[Any, ...], dict[str, Any], Any]] = []

    def record(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            calls.append((index, args, kwargs, output))
            return output

        return forward

    with evaluation_mode(model), torch.inference_mode(), patched(modules, record):
        logits_BTV = token_logits(model, ids_BT)
    order = [index for index, *_ in calls]
    called_types = {type(modules[index]) for index in order}
    silent = [index for index in range(len(modules)) if index not in order]
    # Layers of another kind may be left out for want of their input (mllama: cross-attention on text without images).
    if any(type(modules[index]) in called_types for index in silent) or not order or order != sorted(set(order)):
        raise _ProbeMismatch(f"its {len(modules)} modules are called in the order {order}, not once each in turn")
    change_TV = (logits_BTV[0].float() - logits_BTV[1].float()).abs()
    half = logits_BTV.dtype in (torch.float16, torch.bfloat16)
    if causal and float(change_TV[:-1].max()) > (5e-2 if half else 1e-4) * float(change_TV[-1].max()):
        raise UnsupportedModelError(
            f"{type(model).__name__} is not causal: changing the last token changes the logits of earlier ones, so it "
            "is an encoder or a masked language model. Pass a causal language model (for BERT-like models, "
            "the LMHead class with config.is_decoder=True)."
        )
    learned: dict[int, CallForm] = {}
    for position, (index, args, kwargs, output) in enumerate(calls):
        following = calls[position + 1] if position + 1 < len(calls) else None
        learned[index] = _call_form(args, kwargs, output, following)
    forms = [learned.get(index, learned[order[0]]) for index in range(len(modules))]
    if forms and len(forms) > 1 and forms[-1].container is not None:
        forms[-1] = CallForm(forms[-1].hidden, forms[-1].container, forms[-1].length, forms[-2].carried)
    return tuple(forms)


def _call_form(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, following: Any) -> CallForm:
    hidden: ArgumentKey = 0 if args and isinstance(args[0], Tensor) else "hidden_states"
    if not isinstance(_argument(args, kwargs, hidden), Tensor):
        raise _ProbeMismatch(f"no hidden states among the arguments (keywords {sorted(kwargs)})")
    if isinstance(output, Tensor):
        return CallForm(hidden, None, 1, ())
    if not isinstance(output, tuple | list) or not output or not isinstance(output[0], Tensor):
        raise _ProbeMismatch(f"a layer returns {type(output).__name__}, not a tensor or a tuple that starts with one")
    carried: list[tuple[int, ArgumentKey]] = []
    if following is not None:
        _, next_args, next_kwargs, _ = following
        named: list[tuple[ArgumentKey, Any]] = [*enumerate(next_args), *next_kwargs.items()]
        for index, element in enumerate(output[1:], start=1):
            key = next((k for k, value in named if value is element and k != hidden), None)
            if isinstance(element, Tensor) and key is not None:
                carried.append((index, key))
    return CallForm(hidden, type(output), len(output), tuple(carried))


@contextmanager
def patched(
    modules: Iterable[nn.Module], make: Callable[[int, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Give each module the forward ``make(index, original)`` for the time of the context, whatever happens in it.

    The patch sits on the instance, outside any hook that accelerate has put there.
    """
    saved: list[tuple[nn.Module, bool, Any]] = []
    try:
        for index, module in enumerate(modules):
            saved.append((module, "forward" in module.__dict__, module.__dict__.get("forward")))
            forward = make(index, module.forward)
            if getattr(module, "_compiled_call_impl", None) is not None:
                # A layer that the user has compiled in place (layer.compile()): a patch is not to be traced.
                forward = torch.compiler.disable(forward)
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, had_own, own in reversed(saved):
            if had_own:
                module.__dict__["forward"] = own
            else:
                del module.__dict__["forward"]


@contextmanager
def skip_layers(
    model: nn.Module, layers: Iterable[int], *, stack: LayerStack | LayersArgument = None
) -> Iterator[nn.Module]:
    """Run the model without some of its layers; weights are neither changed nor copied.

    Parameters
    ----------
    model : nn.Module
        Causal language model.
    layers : iterable of int
        Indices to skip, in [0, L). All of them may be skipped.
    stack : LayerStack, str or sequence of nn.Module, optional
        The layers of `model` if already known; otherwise as in `find_layers`.

    Yields
    ------
    nn.Module
        The same model, skipping. On leaving the context it is as before, also after an error.

    Notes
    -----
    Meant for whole forwards. Generating with a key-value cache while layer 0 is skipped is wrong in most
    architectures (their cache length is read from layer 0): use `layershap.remove_layers` for that.

    Examples
    --------
    >>> from layershap.datasets import load_tiny_gpt2
    >>> from layershap import skip_layers
    >>> model, tokenizer = load_tiny_gpt2()
    >>> with skip_layers(model, [3, 7]):
    ...     logits = model(**tokenizer("It was", return_tensors="pt")).logits
    """
    found = stack if isinstance(stack, LayerStack) else find_layers(model, stack, causal=False)
    skipped = check_layer_indices(layers, len(found))

    def skip(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
        form = found.forms[skipped[index]]

        def forward(*args: Any, **kwargs: Any) -> Any:
            return form.wrap(form.hidden_from(args, kwargs), args, kwargs)

        return forward

    with patched([found.layers[i] for i in skipped], skip):
        yield model


def check_layer_indices(layers: Iterable[int], n_layers: int) -> list[int]:
    """Sorted layer indices, each an int in [0, n_layers) and named once."""
    if isinstance(layers, int):
        raise TypeError(f"layers must be a list of layer indices, got the int {layers}; write [{layers}]")
    indices = []
    for value in layers:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"layer indices must be ints, got {value!r} of type {type(value).__name__}")
        indices.append(int(value))
    wrong = [i for i in indices if not 0 <= i < n_layers]
    if wrong:
        raise ValueError(f"layer indices must lie in [0, {n_layers}) for a model of {n_layers} layers, got {wrong}")
    if len(set(indices)) < len(indices):
        raise ValueError(f"layer indices must be distinct, got {indices}")
    return sorted(indices)

"""Finding the sublayers of a model's layers: by the names of their modules, verified by two probe forwards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from layershap.exceptions import UnsupportedModelError
from layershap.model.calls import ProbeMismatch, argument_named, call_form, patched, probe_ids
from layershap.model.io import evaluation_mode, is_encoder_decoder
from layershap.model.samples import sample_logits
from layershap.model.skeleton import shapes_only
from layershap.model.stack import LayersArgument, LayerStack, find_layers
from layershap.model.sublayers import (
    Granularity,
    Part,
    Players,
    PlayersArgument,
    Sublayer,
    SublayerKind,
    SublayerStack,
)

# Names of a layer's children, as whole words or their beginnings. Class names are read only where a name says nothing,
# and by their ends: they begin with the family's name, which may itself hold any of these words.
_MIXER_NAME = re.compile(r"(^|_|\.)(\w*attn|\w*attention|mamba|ssm|conv|temporal|mlstm|slstm|recurrent|linear_attn)")
_FEED_FORWARD_NAME = re.compile(r"(^|_|\.)(\w*mlps?|feed_forward|ffn?|fc\d|\w*moe|experts?|intermediate|output$)")
_FEED_FORWARD_CLASS = re.compile(r"(MLP|Mlp|FeedForward|FFN|MoE|Moe|MoeBlock|MoEBlock|Experts)$")
_MIXER_CLASS = re.compile(r"(Attention|Mixer|Mamba|Conv|Recurrent\w*|Block)$")


def find_sublayers(model: nn.Module, layers: LayersArgument = None, *, causal: bool = True) -> SublayerStack:
    """Find the sublayers of a causal language model and check that each layer is the sum of its own.

    The rule: a layer's children that hold weight matrices and are called once are its mixer or its feed-forward part,
    by their names. With both contributing nothing the layer must give back its input. A layer for which this fails
    (its residual stream passes through a norm or a scale), or that has only one of the two, is one player.

    Parameters
    ----------
    model : nn.Module
        Module that maps token ids [B, T] to logits.
    layers : str or sequence of nn.Module, optional
        As in `layershap.find_layers`.
    causal : bool, default=True
        As in `layershap.find_layers`.

    Returns
    -------
    SublayerStack
        The P sublayers in the order in which they run.

    Raises
    ------
    UnsupportedModelError
        No layer has two sublayers that can be skipped one by one; the message says why.

    See Also
    --------
    layershap.find_layers : The whole layers.
    layershap.remove_sublayers : Removes sublayers.

    Examples
    --------
    >>> from layershap.datasets import load_tiny_gpt2
    >>> from layershap import find_sublayers
    >>> model, _ = load_tiny_gpt2()
    >>> find_sublayers(model).names[:3]
    ('0.mixer', '0.feed_forward', '1.mixer')
    """
    if is_encoder_decoder(model):
        raise UnsupportedModelError(
            f"{type(model).__name__} is an encoder-decoder model, whose layers are players as a whole: a decoder layer "
            "has a cross-attention between its two sublayers. Use granularity='layer'"
        )
    stack = find_layers(model, layers, causal=causal)
    split, problems = _split(model, stack)
    problems = {**_not_the_identity(model, stack, split), **problems}
    players: list[Sublayer] = []
    for index in range(len(stack)):
        found = split.get(index, [])
        whole = index in problems or len(found) < 2
        players += [Sublayer(index, "layer", ())] if whole else found
    if len(players) == len(stack):
        reason = next(iter(problems.values()), "each has one sublayer only")
        raise UnsupportedModelError(
            f"the layers of {type(model).__name__} can't be split into sublayers: {reason}. Use granularity='layer'."
        )
    return SublayerStack(stack, tuple(players))


def find_players(
    model: nn.Module, layers: PlayersArgument = None, granularity: Granularity = "layer", *, causal: bool = True
) -> Players:
    """The layers of a model (`layershap.find_layers`) or their sublayers (`find_sublayers`).

    Players found before are given back as they are, sublayers whatever the granularity; the model is run only if they
    were found without a check that it is causal, and that is asked for now.
    """
    if granularity not in ("layer", "sublayer"):
        raise ValueError(f"granularity must be 'layer' or 'sublayer', got {granularity!r}")
    if isinstance(layers, SublayerStack):
        return replace(layers, stack=find_layers(model, layers.stack, causal=causal))
    find = find_layers if granularity == "layer" else find_sublayers
    return find(model, layers, causal=causal)


@contextmanager
def skip_sublayers(model: nn.Module, sublayers: Iterable[int], *, stack: PlayersArgument = None) -> Iterator[nn.Module]:
    """Run the model without some of its sublayers; weights are neither changed nor copied.

    Parameters
    ----------
    model : nn.Module
        Causal language model.
    sublayers : iterable of int
        Indices into ``find_sublayers(model).names``; negative ones count from the end.
    stack : SublayerStack, str or sequence of nn.Module, optional
        The sublayers if already known, or the place of the layers. By default they are found as by `find_sublayers`.

    Yields
    ------
    nn.Module
        The same model, skipping. On leaving the context it is as before, also after an error.

    See Also
    --------
    layershap.remove_sublayers : Removes sublayers for good.
    """
    found = stack if isinstance(stack, SublayerStack) else find_sublayers(model, stack, causal=False)
    with found.skip(sublayers):
        yield model


_Call: TypeAlias = tuple[int, str, nn.Module, tuple[Any, ...], dict[str, Any], Any]


def _split(model: nn.Module, stack: LayerStack) -> tuple[dict[int, list[Sublayer]], dict[int, str]]:
    """The sublayers of each layer in calling order, and the layers that have none, with the reason."""
    places = [(i, name, module) for i, layer in enumerate(stack.layers) for name, module in _children(layer)]
    calls: list[_Call] = []

    def record(position: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            calls.append((*places[position], args, kwargs, output))
            return output

        return forward

    modules = [module for *_, module in places]
    with evaluation_mode(model), torch.inference_mode(), shapes_only(model), patched(modules, record):
        sample_logits(model, probe_ids(model))
    split: dict[int, list[Sublayer]] = {}
    problems: dict[int, str] = {}
    for index in range(len(stack)):
        own = [call for call in calls if call[0] == index]
        try:
            split[index] = _sublayers_of(own, calls)
        except ProbeMismatch as error:
            problems[index] = f"layer {index}: {error}"
    return split, problems


def _children(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children of a layer, and of lists in it, that hold weight matrices and are no norms."""
    for name, child in layer.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{inner}", module) for inner, module in _children(child))
        elif not type(child).__name__.endswith("Norm") and any(parameter.dim() > 1 for parameter in child.parameters()):
            yield name, child


def mixer_children(layer: nn.Module) -> list[nn.Module]:
    """The children of a layer that are its mixer by their names."""
    return [child for name, child in _children(layer) if not _FEED_FORWARD_NAME.search(name)]


def _sublayers_of(own: Sequence[_Call], calls: Sequence[_Call]) -> list[Sublayer]:
    parts: dict[SublayerKind, list[Part]] = {}
    for index, name, module, args, kwargs, output in own:
        if sum(call[2] is module for call in own) > 1:
            raise ProbeMismatch(f"its {name} is called several times in one forward")
        following = next((call for call in calls if call[1] == name and call[0] > index), None)
        form = call_form(module, args, kwargs, output, following and following[2:])
        residual = argument_named(module, "residual", args, kwargs)
        if residual is not None:
            form = replace(form, hidden=residual)
        parts.setdefault(_kind(name, module), []).append(Part(name, module, form, residual is not None))
    return [Sublayer(own[0][0], kind, tuple(members)) for kind, members in parts.items()]


def _kind(name: str, module: nn.Module) -> SublayerKind:
    if _FEED_FORWARD_NAME.search(name):
        return "feed_forward"
    if _MIXER_NAME.search(name):
        return "mixer"
    if _FEED_FORWARD_CLASS.search(type(module).__name__):
        return "feed_forward"
    if _MIXER_CLASS.search(type(module).__name__):
        return "mixer"
    raise ProbeMismatch(f"its {name}, a {type(module).__name__}, is neither a mixer nor a feed-forward part by name")


def _not_the_identity(model: nn.Module, stack: LayerStack, split: dict[int, list[Sublayer]]) -> dict[int, str]:
    """Layers that change their input though all their sublayers contribute nothing."""
    parts = [part for sublayers in split.values() for sublayer in sublayers for part in sublayer.parts]
    wrong: dict[int, str] = {}

    def compare(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
        form = stack.forms[index]

        def forward(*args: Any, **kwargs: Any) -> Any:
            before = form.hidden_from(args, kwargs).clone()
            output = original(*args, **kwargs)
            change = _relative_change(before, form.hidden_of(output))
            if not change <= 1e-6:
                wrong[index] = (
                    f"layer {index} with all its sublayers off changes its input (by {change:.2g} of the largest "
                    "value): its residual stream passes through a norm, a scale or another branch"
                )
            # The next layer gets the same input: to zeros, say, any layer would seem to be the identity.
            return form.wrap(before, args, kwargs)

        return forward

    with ExitStack() as context:
        context.enter_context(evaluation_mode(model))
        context.enter_context(torch.inference_mode())
        context.enter_context(shapes_only(model))
        context.enter_context(patched(stack.layers, compare))
        context.enter_context(patched([part.module for part in parts], lambda i, _: parts[i].nothing))
        try:
            sample_logits(model, probe_ids(model))
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
            reason = f"with all sublayers off its forward fails ({type(error).__name__}: {error})"
            return dict.fromkeys(range(len(stack)), reason)
    return wrong


def _relative_change(before: Tensor, after: Tensor) -> float:
    if before.shape != after.shape:
        return float("inf")
    return float((after.float() - before.float()).abs().max() / before.float().abs().max().clamp_min(1e-6))

"""Finding the decoder layers of a model, and skipping some of them.

A transformers parent model decides by itself what to pass to each layer (masks by layer type, rotary tables, per-layer
inputs), so a layer is skipped by giving it another ``forward`` for a while: the parent's loop stays as it is.

Shapes: B rows, T tokens, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, TypeAlias

from torch import nn

from layershap.exceptions import UnsupportedModelError
from layershap.model.calls import CallForm, ProbeMismatch, probe_calls
from layershap.model.candidates import candidates
from layershap.model.io import check_is_model
from layershap.model.patching import claimed, patched


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
        Form in which the parent calls each layer.
    causal : bool
        Whether the probe found that no logit depends on later tokens; False where it was not asked to.
    skip_scales : tuple of float, optional
        What a skipped layer multiplies the hidden states by (`layershap.compensation.layer_scales`). By default it
        hands them on as they are.
    """

    path: str
    layers: tuple[nn.Module, ...] = field(repr=False)
    forms: tuple[CallForm, ...] = field(repr=False)
    causal: bool = False
    skip_scales: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.layers)

    def layer_of(self, player: int) -> int:
        """Index of the layer that a player belongs to: here the players are the layers."""
        return player

    def kind_of(self, player: int) -> str:
        """What a player is: here always "layer"."""
        return "layer"

    @contextmanager
    def skip(self, players: Iterable[int]) -> Iterator[None]:
        """Run the model without these `players`, inside a ``with`` block."""
        skipped = check_layer_indices(players, len(self))

        def make(position: int, original: Callable[..., Any]) -> Callable[..., Any]:
            form = self.forms[skipped[position]]
            scale = None if self.skip_scales is None else self.skip_scales[skipped[position]]

            def forward(*args: Any, **kwargs: Any) -> Any:
                hidden = form.hidden_from(args, kwargs)
                return form.wrap(hidden if scale is None else hidden * scale, args, kwargs)

            return forward

        # All layers are held: two threads that skip different ones would each run without both.
        with claimed(self.layers), patched([self.layers[i] for i in skipped], make):
            yield

    def only(self, player: int) -> AbstractContextManager[None]:
        """Let a player's layer compute this player only: here nothing has to be done."""
        return nullcontext()


LayersArgument: TypeAlias = str | Sequence[nn.Module] | LayerStack | None
"""Where the layers are, if the rule of `find_layers` can't know; or the layers as they were found before."""


def find_layers(model: nn.Module, layers: LayersArgument = None, *, causal: bool = True) -> LayerStack:
    """Find the decoder layers of a causal language model and check them with a probe forward.

    The rule (measured on 190 transformers model types): inside ``get_decoder()``, the module list as long as the
    config's layer count that holds the most parameters (A); if there is none or the probe disagrees (a vision tower
    as deep as the decoder), the next such list, at last the list that holds the most parameters (B).

    Parameters
    ----------
    model : nn.Module
        Module that maps token ids [B, T] to logits.
    layers : str, sequence of nn.Module or LayerStack, optional
        Dotted path of the layer list, or the layers themselves, where the rule can't know. A `LayerStack` of this model
        is given back as it is, without another forward.
    causal : bool, default=True
        True refuses a model whose earlier logits depend on later tokens. Skipping and removing layers of such a model
        work, but its next-token scores mean nothing.

    Returns
    -------
    LayerStack
        The L layers in the order in which the model calls them.

    Raises
    ------
    UnsupportedModelError
        No list of layers passes the probe, or the model is not causal.

    See Also
    --------
    layershap.find_sublayers, layershap.inspect
    """
    check_is_model(model)
    if isinstance(layers, LayerStack):
        check_belongs(layers.layers, model)
        return layers if layers.causal or not causal else find_layers(model, layers.layers)
    problems = []
    found: LayerStack | None = None
    for path, modules in _given(model, layers) if layers is not None else candidates(model):
        if found is not None and not _is_rival(modules, found):
            continue
        try:
            forms = probe_calls(model, modules, causal)
        except ProbeMismatch as error:
            problems.append(f"{path or 'the modules given'}: {error}")
            continue
        if found is not None:
            raise UnsupportedModelError(
                f"{type(model).__name__} has two lists of {len(modules)} layers, {found.path!r} and {path!r}, and "
                "nothing tells which one to prune. Name it: layers='dotted.path.of.the.ModuleList'."
            )
        found = LayerStack(path, modules, forms, causal)
    if found is not None:
        return found
    raise UnsupportedModelError(
        f"no list of decoder layers found in {type(model).__name__}"
        + (f" ({'; '.join(problems)})" if problems else "")
        + f". Its lists are {_list_names(model)}; one of a single module is none of layers, of which nothing could be "
        "removed. Name the list, layers='dotted.path.of.the.ModuleList' (stack= where layers are removed or skipped), "
        "or pass the layer modules in calling order."
    )


def _list_names(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList | nn.Sequential)][:8]


def _is_rival(modules: Sequence[nn.Module], found: LayerStack) -> bool:
    """Whether these could be the decoder layers as well as those found: as many, and not parts of them."""
    inside = {id(part) for layer in found.layers for part in layer.modules()}
    return len(modules) == len(found) and id(modules[0]) not in inside


def _given(model: nn.Module, layers: str | Sequence[nn.Module]) -> Iterator[tuple[str, tuple[nn.Module, ...]]]:
    if isinstance(layers, str):
        try:
            container = model.get_submodule(layers)
        except AttributeError as error:
            raise UnsupportedModelError(
                f"layers={layers!r} is not a module of {type(model).__name__} ({error}); its lists are "
                f"{_list_names(model)}"
            ) from error
        if not isinstance(container, nn.ModuleList | nn.Sequential):
            raise UnsupportedModelError(
                f"layers={layers!r} must name an nn.ModuleList or nn.Sequential, it is a {type(container).__name__}"
            )
        yield layers, tuple(container)
        return
    if not isinstance(layers, Iterable):
        raise TypeError(f"layers must be a dotted path or a sequence of modules, got {type(layers).__name__}")
    modules = tuple(layers)
    check_belongs(modules, model)
    yield _common_list(model, modules), modules


def check_belongs(modules: Sequence[nn.Module], model: nn.Module) -> None:
    """Raise `UnsupportedModelError` unless these are different modules of this very model."""
    inside = set(model.modules())
    for index, module in enumerate(modules):
        if not isinstance(module, nn.Module) or module not in inside or module in modules[:index]:
            raise UnsupportedModelError(
                f"layers[{index}] must be a submodule of the {type(model).__name__} given, each named once, "
                f"got {type(module).__name__}. (Was it taken from another copy of the model? A dotted path serves all.)"
            )


def _common_list(model: nn.Module, modules: Sequence[nn.Module]) -> str:
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and tuple(module) == tuple(modules):
            return path
    return ""


@contextmanager
def skip_layers(model: nn.Module, layers: Iterable[int], *, stack: LayersArgument = None) -> Iterator[nn.Module]:
    """Run the model without some of its layers; weights are neither changed nor copied.

    Parameters
    ----------
    model : nn.Module
        Causal language model.
    layers : iterable of int
        Indices to skip, in [0, L); negative ones count from the end. All layers may be skipped.
    stack : LayerStack, str or sequence of nn.Module, optional
        The layers of `model` if already known. By default they are found as by `find_layers`.

    Yields
    ------
    nn.Module
        The same model, skipping. On leaving the context it is as before, also after an error.

    See Also
    --------
    layershap.remove_layers, layershap.skip_sublayers

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
    with find_layers(model, stack, causal=False).skip(layers):
        yield model


def check_layer_indices(layers: Iterable[int], n_layers: int) -> list[int]:
    """Sorted layer indices in [0, n_layers); negative ones count from the end, none is named twice."""
    if isinstance(layers, Integral):
        raise TypeError(f"layer indices must be a list, got the int {layers}; write [{layers}]")
    given = []
    for value in layers:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"layer indices must be ints, got {value!r} of type {type(value).__name__}")
        given.append(int(value))
    wrong = [i for i in given if not -n_layers <= i < n_layers]
    if wrong:
        raise ValueError(
            f"layer indices must lie in [0, {n_layers}), or in [-{n_layers}, 0) to count from the end, for a model of "
            f"{n_layers} layers, got {wrong}"
        )
    indices = sorted(i % n_layers for i in given)
    twice = sorted({i for i in indices if indices.count(i) > 1})
    if twice:
        raise ValueError(f"layer indices must be distinct, got {given}: {twice} twice (-1 is layer {n_layers - 1})")
    return indices

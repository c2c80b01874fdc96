"""`inspect`: what the layers of a model are, what each weighs, and which of them can be removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn

from layershap.calibration import as_calibration
from layershap.exceptions import UnsupportedModelError
from layershap.forward.engine import Engine
from layershap.forward.settings import EngineSettings
from layershap.model.calls import probe_ids
from layershap.model.split import find_players
from layershap.model.sublayers import AbsentSublayer, Granularity, Players, PlayersArgument, SublayerStack
from layershap.places import model_name
from layershap.surgery.cache_slots import lacks_mixer
from layershap.surgery.config import layer_kinds
from layershap.surgery.removable import unremovable_players
from layershap.tables import MEGABYTE, Table, megabytes

# Word in a submodule's class name -> kind of token mixer; the first that matches names the layer. A class named only
# "...Attention" is the fallback, since hybrids call their other mixers attention too.
_MIXERS = (
    ("mamba", "mamba"),
    ("deltanet", "linear_attention"),
    ("lightning", "linear_attention"),
    ("rwkv", "recurrent"),
    ("lstm", "recurrent"),
    ("recurrent", "recurrent"),
    ("attention", "attention"),
    ("attn", "attention"),
    ("mixer", "mixer"),
    ("conv", "conv"),
)


@dataclass(frozen=True)
class LayerInspection:
    """One decoder layer, or one sublayer.

    Attributes
    ----------
    index : int
        Place of the layer in the stack.
    name : str
        The index as text, or a sublayer's name ("3.mixer").
    mixer : str
        Kind of token mixing: "full_attention", "sliding_attention", "attention", "mamba", "linear_attention", ... as
        the config names it, else as the class names of the modules tell.
    feed_forward : str
        Kind of feed-forward part: "mlp", "moe" or "none".
    n_parameters : int
        Number of parameters that removing the layer alone frees; parameters shared with other parts of the model don't
        count.
    n_bytes : int
        Bytes of these parameters.
    removable : bool
        Whether `fit` may consider removing the layer.
    reason : str
        Reason why the layer is not removable; empty if it is.
    """

    index: int
    name: str
    mixer: str
    feed_forward: str
    n_parameters: int
    n_bytes: int
    removable: bool
    reason: str


@dataclass(frozen=True)
class ModelInspection:
    """A model and its layers; ``str()`` gives a plain-text table, notebooks show HTML.

    Attributes
    ----------
    model_class : str
        Name of the model's class.
    path : str
        Dotted path of the layer list.
    n_parameters, n_bytes : int
        Size of the whole model, shared parameters counted once.
    layers : tuple of LayerInspection
        One entry per layer, or per sublayer.
    forward : str
        Forward that will score masked models.

        - "fused", "plain": the forward of that name.
        - "": it was not looked for.
        - "none": a game refuses the model.
    forward_note : str
        Reason why the forward is not the fused one.
    name : str
        Last part of the model's name on the Hub, or of its folder; empty if it has none.
    """

    model_class: str
    path: str
    n_parameters: int
    n_bytes: int
    layers: tuple[LayerInspection, ...]
    forward: str = ""
    forward_note: str = ""
    name: str = ""

    @property
    def n_layers(self) -> int:
        """Number of layers, or of sublayers."""
        return len(self.layers)

    def table(self) -> Table:
        """One row per layer: what it is, its size, and whether it can be removed."""
        share = sum(layer.n_parameters for layer in self.layers) / max(self.n_parameters, 1)
        title = (
            f"{self.model_class}: {self.n_layers} layers at {self.path or '(given one by one)'}, "
            f"{self.n_parameters:,} parameters ({share:.0%} in the layers), {megabytes(self.n_bytes)}"
        )
        why = f" ({self.forward_note})" if self.forward_note else ""
        rows = tuple(
            (
                layer.name,
                layer.mixer,
                layer.feed_forward,
                layer.n_parameters,
                layer.n_bytes / MEGABYTE,
                "yes" if layer.removable else f"no: {layer.reason}",
            )
            for layer in self.layers
        )
        columns = ("layer", "mixer", "feed-forward", "parameters", "MB", "removable")
        return Table(title, columns, rows, f"forward for masked models: {self.forward}{why}" if self.forward else "")

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table().to_html()


def inspect(
    model: nn.Module, layers: PlayersArgument = None, *, granularity: Granularity = "layer", forward: bool = True
) -> ModelInspection:
    """Describe the decoder layers of a model, or their sublayers.

    Parameters
    ----------
    model : nn.Module
        Any model that `layershap.find_layers` accepts, causal or not.
    layers : str, sequence of nn.Module, LayerStack or SublayerStack, optional
        Dotted path of the layer list, or the layers themselves, where the rule can't know; or the players, if they were
        found before.
    granularity : {"layer", "sublayer"}, default="layer"
        Players to describe: the L layers, or the sublayers that `layershap.find_sublayers` finds.
    forward : bool, default=True
        True also finds out which forward will score masked models, at the price of some ten short forwards.

    Returns
    -------
    ModelInspection
        Sizes, kinds and removability of the layers; ``print`` shows a table.

    Raises
    ------
    UnsupportedModelError
        No list of layers is found, or no layer can be split into sublayers.

    See Also
    --------
    layershap.find_layers : The layers as modules.
    layershap.remove_layers : Removes layers.

    Examples
    --------
    >>> from layershap.datasets import load_tiny_gpt2
    >>> from layershap import inspect
    >>> model, _ = load_tiny_gpt2()
    >>> inspect(model).path
    'transformer.h'
    >>> inspect(model).forward
    'fused'
    """
    players, not_causal = _find(model, layers, granularity)
    blocked = unremovable_players(model, players)
    holders = _holders(model, players)
    named = layer_kinds(model, players.path, len(players.layers))
    described = []
    for index in range(len(players)):
        layer = players.layers[players.layer_of(index)]
        sublayer = players.sublayers[index] if isinstance(players, SublayerStack) else None
        modules = [part.module for part in sublayer.parts] if sublayer and sublayer.parts else [layer]
        own = [p for module in modules for p in module.parameters() if holders[id(p)] == 1]
        kind = sublayer.kind if sublayer else "layer"
        configured = named[players.layer_of(index)] if named else ""
        described.append(
            LayerInspection(
                index=index,
                name=sublayer.name if sublayer else str(index),
                mixer="none" if kind == "feed_forward" else _kind(layer, configured),
                feed_forward="none" if kind == "mixer" else _feed_forward(layer),
                n_parameters=sum(p.numel() for p in own),
                n_bytes=sum(p.numel() * p.element_size() for p in own),
                removable=index not in blocked,
                reason=blocked.get(index, ""),
            )
        )
    parameters = list(model.parameters())
    found, note = "", ""
    if forward:
        found, note = ("none", not_causal) if not_causal else _serving_forward(model, players, blocked)
    return ModelInspection(
        model_class=type(model).__name__,
        path=players.path,
        n_parameters=sum(p.numel() for p in parameters),
        n_bytes=sum(p.numel() * p.element_size() for p in parameters),
        layers=tuple(described),
        forward=found,
        forward_note=note,
        name=model_name(model),
    )


def _find(model: nn.Module, layers: PlayersArgument, granularity: Granularity) -> tuple[Players, str]:
    """The players, and why the model is not causal; '' if it is."""
    try:
        return find_players(model, layers, granularity), ""
    except UnsupportedModelError as error:
        return find_players(model, layers, granularity, causal=False), str(error)


def _serving_forward(model: nn.Module, players: Players, blocked: Collection[int]) -> tuple[str, str]:
    """The forward that a game on this causal model will use, and why not the fused one."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    settings = EngineSettings.resolve("auto", "auto", device)
    ids_BT = probe_ids(model, torch.device("cpu"))
    engine = Engine(model, players, as_calibration(ids_BT, None), ("nll",), settings, always_kept=blocked)
    return engine.path, engine.note


def _holders(model: nn.Module, stack: Players) -> Counter[int]:
    """In how many layers, or other parts of the model, each parameter (by id) lives."""
    inside = {id(module) for layer in stack.layers for module in layer.modules()}
    holders = Counter(id(p) for layer in stack.layers for p in layer.parameters())
    for module in model.modules():
        if id(module) not in inside:
            holders.update(id(p) for p in module.parameters(recurse=False))
    return holders


def _kind(layer: nn.Module, configured: str) -> str:
    """The config's name, unless the modules' names say more than its "linear_attention" (mamba, recurrent)."""
    if lacks_mixer(layer):
        return "none"
    found = _mixer(layer)
    return configured if configured and (configured != "linear_attention" or found == "attention") else found


def _mixer(layer: nn.Module) -> str:
    names = [type(module).__name__.lower() for module in layer.modules()]
    for word, kind in _MIXERS:
        if any(word in name for name in names[1:]):
            return kind
    return "unknown"


def _feed_forward(layer: nn.Module) -> str:
    names = [
        f"{path} {type(module).__name__}".lower()
        for path, module in layer.named_modules()
        if path and not isinstance(module, AbsentSublayer)
    ]
    if any("experts" in name or "moe" in name for name in names):
        return "moe"
    if any(word in name for name in names for word in ("mlp", "feed_forward", "ffn", "fc1", "intermediate")):
        return "mlp"
    return "none"

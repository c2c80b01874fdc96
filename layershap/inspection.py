"""`inspect`: what the layers of a model are, what each weighs, and which of them can be removed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import nn

from layershap.stack import LayersArgument, LayerStack, find_layers
from layershap.sublayers import AbsentSublayer
from layershap.surgery.cache_slots import lacks_mixer
from layershap.surgery.config import layer_kinds
from layershap.surgery.removable import unremovable_layers

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
    """One decoder layer.

    Attributes
    ----------
    index : int
        Its place in the stack.
    mixer : str
        How it mixes tokens: "full_attention", "sliding_attention", "attention", "mamba", "linear_attention", ... as
        the config names it, else as its modules' class names tell.
    feed_forward : str
        "mlp", "moe" or "none".
    n_parameters : int
        Parameters that removing it alone frees: those shared with other parts of the model are not counted.
    n_bytes : int
        Their memory.
    removable : bool
        Whether `fit` may consider removing it.
    reason : str
        Why not; empty if removable.
    """

    index: int
    mixer: str
    feed_forward: str
    n_parameters: int
    n_bytes: int
    removable: bool
    reason: str


@dataclass(frozen=True)
class ModelInspection:
    """A model and its layers; ``str()`` gives a plain-text table.

    Attributes
    ----------
    model_class : str
        Name of the model's class.
    path : str
        Dotted path of the layer list.
    n_parameters, n_bytes : int
        Of the whole model, shared parameters counted once.
    layers : tuple of LayerInspection
        One per layer.
    """

    model_class: str
    path: str
    n_parameters: int
    n_bytes: int
    layers: tuple[LayerInspection, ...]

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    def __str__(self) -> str:
        share = sum(layer.n_parameters for layer in self.layers) / max(self.n_parameters, 1)
        head = (
            f"{self.model_class}: {self.n_layers} layers at {self.path or '(given one by one)'}, "
            f"{self.n_parameters:,} parameters ({share:.0%} in the layers), {self.n_bytes / 2**20:,.1f} MiB"
        )
        rows = [("layer", "mixer", "feed-forward", "parameters", "MiB", "removable")]
        for layer in self.layers:
            size = f"{layer.n_bytes / 2**20:,.2f}"
            removable = "yes" if layer.removable else f"no: {layer.reason}"
            row = (str(layer.index), layer.mixer, layer.feed_forward, f"{layer.n_parameters:,}", size, removable)
            rows.append(row)
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        right = (0, 3, 4)
        lines = [
            "  ".join(cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(row[:5]))
            + f"  {row[5]}"
            for row in rows
        ]
        return "\n".join([head, *lines])


def inspect(model: nn.Module, layers: LayersArgument = None) -> ModelInspection:
    """Describe the decoder layers of a model.

    Parameters
    ----------
    model : nn.Module
        Any model that `layershap.stack.find_layers` accepts, causal or not.
    layers : str or sequence of nn.Module, optional
        Dotted path of the layer list, or the layers themselves, where the rule can't know.

    Returns
    -------
    ModelInspection

    Raises
    ------
    UnsupportedModelError
        No list of layers is found.

    Examples
    --------
    >>> from layershap.datasets import load_tiny_gpt2
    >>> from layershap import inspect
    >>> model, _ = load_tiny_gpt2()
    >>> inspect(model).path
    'transformer.h'
    """
    stack = find_layers(model, layers, causal=False)
    blocked = unremovable_layers(model, stack)
    holders = _holders(model, stack)
    named = layer_kinds(model, stack.path, len(stack))
    described = []
    for index, layer in enumerate(stack.layers):
        own = [p for p in layer.parameters() if holders[id(p)] == 1]
        described.append(
            LayerInspection(
                index=index,
                mixer=_kind(layer, named[index] if named else ""),
                feed_forward=_feed_forward(layer),
                n_parameters=sum(p.numel() for p in own),
                n_bytes=sum(p.numel() * p.element_size() for p in own),
                removable=index not in blocked,
                reason=blocked.get(index, ""),
            )
        )
    parameters = list(model.parameters())
    return ModelInspection(
        model_class=type(model).__name__,
        path=stack.path,
        n_parameters=sum(p.numel() for p in parameters),
        n_bytes=sum(p.numel() * p.element_size() for p in parameters),
        layers=tuple(described),
    )


def _holders(model: nn.Module, stack: LayerStack) -> Counter[int]:
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

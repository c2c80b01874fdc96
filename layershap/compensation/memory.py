"""What a `LinearRefit` will hold in memory, told before it runs; a model on the meta device will do.

Shapes: N tokens, D hidden size, F inputs of the refitted linear layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from layershap.compensation.gaps import Scope, checked_scope, gaps_of, refitted
from layershap.compensation.linear import LinearLayer, is_linear
from layershap.limits import check_int
from layershap.model.io import text_config
from layershap.model.stack import check_layer_indices, find_layers


@dataclass(frozen=True)
class RefitMemory:
    """Bytes that a refit holds at its peak, beside the activations of one block of tokens.

    Attributes
    ----------
    whole : int
        Weights of the model with all its layers, on its device. It is measured before layers go, and stays beside its
        pruned copy with ``copy=True``.
    weights : int
        Weights of the pruned model.
    states : int
        Hidden states of all calibration tokens, on the device: before the first layer, and before and after the layer
        at hand.
    regression : int
        Products and solution of the regression at hand, on the device.
    targets : int
        States after the gaps (with ``scope="all"`` after every refitted layer), on the host.
    old_weights : int
        Copies of the weights before they are changed, on the host: an interruption puts them back.
    copy : bool
        Whether the pruned model is a copy.
    """

    whole: int
    weights: int
    states: int
    regression: int
    targets: int
    old_weights: int
    copy: bool

    @property
    def device(self) -> int:
        """Bytes on the device."""
        refit = self.weights + self.states + self.regression
        return self.whole + refit if self.copy else max(self.whole, refit)

    @property
    def host(self) -> int:
        """Bytes on the host."""
        return self.targets + self.old_weights

    def __str__(self) -> str:
        parts = [("pruned model", self.weights), ("states", self.states), ("regression", self.regression)]
        if self.copy:
            parts.insert(0, ("whole model", self.whole))
        elif self.device == self.whole:
            parts = [("whole model, before layers go", self.whole)]
        listed = ", ".join(f"{name} {n_bytes / 1e9:.3g}" for name, n_bytes in parts)
        return f"{self.device / 1e9:.3g} GB on the device ({listed}), {self.host / 1e9:.3g} GB on the host"


def refit_memory(
    model: nn.Module, layers: Sequence[int], n_tokens: int, *, scope: Scope = "gaps", copy: bool = True
) -> RefitMemory:
    """Memory of `LinearRefit` for a removal (with ``writes="last"``; "all" keeps more old weights on the host).

    Parameters
    ----------
    model : nn.Module
        The model with all its layers; on the meta device nothing of it is loaded.
    layers : sequence of int
        The layers that go.
    n_tokens : int
        Number of calibration tokens, those held out included.
    scope : {"gaps", "all"}, default="gaps"
        That of the `LinearRefit`.
    copy : bool, default=True
        That of `layershap.remove_layers` or the pruner: whether the model given stays as it is.

    Returns
    -------
    RefitMemory
        Bytes by what holds them.

    Raises
    ------
    ValueError, TypeError
        `n_tokens` is no int of at least 1, `layers` aren't the model's, none of them or all, or there is no such
        `scope`.
    """
    n_tokens = check_int("n_tokens", n_tokens, 1, meaning="the number of calibration tokens")
    stack = find_layers(model, causal=False)
    removed = check_layer_indices(layers, len(stack))
    if not 0 < len(removed) < len(stack):
        raise ValueError(f"layers must name at least one of the {len(stack)} layers and leave one, got {removed}")
    gone = {parameter for i in removed for parameter in stack.layers[i].parameters()}
    gaps = gaps_of(removed, len(stack))
    kept = [layer for layer in range(len(stack)) if layer not in removed]
    refits = [stack.layers[kept[place]] for place in refitted(gaps, len(kept), checked_scope(scope))]
    itemsize = next(model.parameters()).element_size()
    width = _stream_width(model) if refits else 0
    written = [largest for layer in refits if (largest := _largest_write(layer, width)) is not None]
    inputs = max((LinearLayer(part).weight_DF.shape[1] for part in written), default=0)
    return RefitMemory(
        whole=_bytes_of(model.parameters()),
        weights=_bytes_of(p for p in model.parameters() if p not in gone),
        states=3 * n_tokens * width * itemsize,
        # Gram and moments in float32; both, the factor and the change in float64; the weights twice.
        regression=4 * inputs * (inputs + width) + 8 * inputs * (2 * inputs + 2 * width) + 8 * inputs * width,
        targets=len(refits) * n_tokens * width * itemsize,
        old_weights=sum(_bytes_of(part.parameters()) for part in written),
        copy=copy,
    )


def _largest_write(layer: nn.Module, width: int) -> nn.Module | None:
    """The linear layer with most inputs among those as wide as the stream, to which only such can write."""
    found = [part for part in layer.modules() if is_linear(part) and LinearLayer(part).weight_DF.shape[0] == width]
    return max(found, key=lambda part: LinearLayer(part).weight_DF.shape[1], default=None)


def _bytes_of(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _stream_width(model: nn.Module) -> int:
    """D, from the config or, where it doesn't say, from the embedding."""
    width = getattr(text_config(getattr(model, "config", None)), "hidden_size", None)
    return int(width) if width else next(m.embedding_dim for m in model.modules() if isinstance(m, nn.Embedding))

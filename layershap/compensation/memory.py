"""What a `LinearRefit` will hold in memory, told before it runs; a model on the meta device will do.

Shapes: N tokens, D hidden size, F inputs of the refitted linear layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from layershap.compensation.gaps import gaps_of
from layershap.compensation.linear import LinearLayer, is_linear
from layershap.limits import check_int
from layershap.model.io import text_config
from layershap.model.stack import check_layer_indices, find_layers


@dataclass(frozen=True)
class RefitMemory:
    """Bytes that a refit of the gaps holds at its peak, beside the activations of one block of tokens.

    Attributes
    ----------
    weights : int
        The pruned model's, on its device. With ``copy=True`` the model given stays there too.
    states : int
        Hidden states of all calibration tokens, on the device: before the first layer, and before and after the layer
        at hand.
    regression : int
        Products and solution of the regression at hand, on the device.
    targets : int
        States after the gaps, on the host.
    """

    weights: int
    states: int
    regression: int
    targets: int

    @property
    def device(self) -> int:
        """Bytes on the device."""
        return self.weights + self.states + self.regression


def refit_memory(model: nn.Module, layers: Sequence[int], n_tokens: int) -> RefitMemory:
    """Memory of `LinearRefit` for a removal.

    Parameters
    ----------
    model : nn.Module
        The model with all its layers; on the meta device nothing of it is loaded.
    layers : sequence of int
        The layers that go.
    n_tokens : int
        Number of calibration tokens, those held out included.

    Returns
    -------
    RefitMemory
        Bytes by what holds them.

    Raises
    ------
    ValueError, TypeError
        `n_tokens` is no int of at least 1, or `layers` aren't the model's.
    """
    n_tokens = check_int("n_tokens", n_tokens, 1, meaning="the number of calibration tokens")
    stack = find_layers(model, causal=False)
    removed = check_layer_indices(layers, len(stack))
    gone = {parameter for i in removed for parameter in stack.layers[i].parameters()}
    weights = sum(p.numel() * p.element_size() for p in model.parameters() if p not in gone)
    gaps = [gap for gap in gaps_of(removed, len(stack)) if gap.before >= 0]
    itemsize = next(model.parameters()).element_size()
    shapes = [
        LinearLayer(part).weight_DF.shape
        for gap in gaps
        for part in stack.layers[gap.first - 1].modules()
        if is_linear(part)
    ]
    width = _stream_width(model) if shapes else 0  # what writes to the stream has its width
    inputs = max((shape[1] for shape in shapes if shape[0] == width), default=0)
    return RefitMemory(
        weights=weights,
        states=3 * n_tokens * width * itemsize,
        # Gram and moments in float32; both, the factor and the change in float64; the weights twice.
        regression=4 * inputs * (inputs + width) + 8 * inputs * (2 * inputs + 2 * width) + 8 * inputs * width,
        targets=len(gaps) * n_tokens * width * itemsize,
    )


def _stream_width(model: nn.Module) -> int:
    """D, from the config or, where it doesn't say, from the embedding."""
    width = getattr(text_config(getattr(model, "config", None)), "hidden_size", None)
    return int(width) if width else next(m.embedding_dim for m in model.modules() if isinstance(m, nn.Embedding))

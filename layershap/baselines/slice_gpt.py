"""SliceGPT: narrow the residual stream instead of removing layers, at the same number of parameters.

Shapes: L layers, D hidden size, W width after slicing, B sequences of a block, T tokens, V vocabulary.
"""

from __future__ import annotations

import copy as copying
import time
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from layershap.baselines.activations import token_blocks
from layershap.calibration import IGNORE, as_calibration
from layershap.exceptions import UnsupportedModelError
from layershap.limits import check_n_remove
from layershap.model.io import evaluation_mode, token_logits

_INPUTS = (("self_attn", ("q_proj", "k_proj", "v_proj")), ("mlp", ("gate_proj", "up_proj")))
_OUTPUTS = (("self_attn", "o_proj"), ("mlp", "down_proj"))


class SliceGPT(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Rotate the residual stream of a Llama-style model to its principal components and keep the first of them.

    ``transform(model, n_remove=n)`` keeps as many components as fit into the parameters that the model would have
    without n of its layers (n times the mean layer), the rotations between neighbouring sublayers included. So the
    method can stand beside methods that remove layers; it has no `removed_layers`.

    Parameters
    ----------
    n_remove : int or float, optional
        Number of layers whose parameters `transform` saves by default, or a fraction of all layers (0.25).

    Attributes
    ----------
    bases_ : Tensor [2 L + 1, D, D]
        Principal directions (columns, by descending variance) of the states that enter each norm.
    diagnostics_ : dict
        ``n_evaluated`` (0), ``layer_runs``, ``seconds``.

    See Also
    --------
    ShortGPT : Removes whole layers at a similar cost.

    Notes
    -----
    For comparison: the result computes, trains and saves like any module, but no transformers config can express it.

    References
    ----------
    Ashkboos et al., SliceGPT: Compress Large Language Models by Deleting Rows and Columns, ICLR 2024, arXiv 2401.15024.
    Departure: all directions come from one pass of the whole model, where the authors let each slice see the errors of
    those before it; so one fit serves every width. Tied embeddings are untied, as there, and counted twice.
    """

    def __init__(self, n_remove: int | float | None = None) -> None:
        self.n_remove = n_remove

    def fit(self, model: nn.Module, calib_data: Any = None, *, tokenizer: Any = None) -> Self:
        """Find the principal directions; the model is only read, and not kept.

        The arguments `model`, `calib_data` and `tokenizer` are as in `LayerPruner.fit`.

        Raises
        ------
        UnsupportedModelError
            The model is not built like Llama: RMSNorms with a weight, q/k/v/o and gate/up/down projections.
        """
        start = time.perf_counter()
        calibration = as_calibration(calib_data, tokenizer)
        norms = _norms(model)
        if self.n_remove is not None:
            _checked(self.n_remove, len(norms) // 2)
        gram = [torch.zeros(n.weight.numel(), n.weight.numel(), dtype=torch.float64, device="cpu") for n in norms]
        counted: list[Tensor] = []

        def watch(index: int) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
                states_ND = args[0][counted[-1]].double()
                gram[index] += (states_ND.T @ states_ND).cpu()

            return hook

        hooks = [norm.register_forward_pre_hook(watch(index)) for index, norm in enumerate(norms)]
        try:
            with torch.inference_mode(), evaluation_mode(model):
                for ids_BT, labels_BT in token_blocks(model, calibration):
                    counted[:] = [labels_BT != IGNORE]
                    token_logits(model, ids_BT)
        finally:
            for handle in hooks:
                handle.remove()
        self.bases_ = torch.stack([torch.linalg.eigh(matrix).eigenvectors.flip(1) for matrix in gram])
        n_layers = len(norms) // 2
        self.diagnostics_ = {"n_evaluated": 0, "layer_runs": n_layers, "seconds": time.perf_counter() - start}
        return self

    def width(self, model: nn.Module, n_remove: int | float | None = None) -> int:
        """Number of components W that `transform` keeps of `model` for `n_remove` layers' worth of parameters.

        Raises
        ------
        ValueError, TypeError
            Not even one component fits; or `n_remove` is neither an int in [1, L - 1] nor a fraction.
        """
        check_is_fitted(self)
        layers = _decoder(model).layers
        count = _checked(self.n_remove if n_remove is None else n_remove, len(layers))
        in_layers = sum(p.numel() for p in layers.parameters())
        allowed = sum(p.numel() for p in model.parameters()) - count * in_layers / len(layers)
        vocabulary = _head(model).weight.shape[0]
        # Every projection has one side on the residual stream; q, k and v may have biases, which stay.
        other_sides = sum(
            module.weight.numel() // module.weight.shape[1 if name not in ("o_proj", "down_proj") else 0]
            for layer in layers
            for name, module in _projections(layer)
        )
        biases = sum(
            module.bias.numel() for layer in layers for _, module in _projections(layer) if module.bias is not None
        )
        for width in range(self.bases_.shape[1] - 1, 0, -1):
            if width * (other_sides + 2 * vocabulary) + 2 * len(layers) * width**2 + biases <= allowed:
                return width
        raise ValueError(f"a model without {count} layers has fewer parameters than one component needs")

    def transform(self, model: nn.Module, n_remove: int | float | None = None) -> nn.Module:
        """Return a narrower copy of `model`, smaller by the parameters of `n_remove` layers."""
        return sliced(model, self.bases_, self.width(model, n_remove))


def sliced(model: nn.Module, bases: Tensor, width: int) -> nn.Module:
    """A copy of a Llama-style model whose residual stream has `width` components of `bases` [2 L + 1, D, D].

    At the full width the copy computes what the model does.
    """
    narrow: Any = copying.deepcopy(model)
    decoder, head = _decoder(narrow), _head(narrow)
    weight = head.weight
    with torch.no_grad():
        kept = bases[:, :, :width].to(weight.device)
        embedding = decoder.embed_tokens.weight
        decoder.embed_tokens = nn.Embedding.from_pretrained(_times(embedding, kept[0]), freeze=False)
        for index, layer in enumerate(list(decoder.layers)):
            decoder.layers[index] = SlicedLayer(layer, *kept[2 * index : 2 * index + 3])
        head_weight = _times(weight * decoder.norm.weight, kept[-1])
        narrow.set_output_embeddings(_linear(head_weight, head.bias))
        decoder.norm = SlicedRMSNorm(decoder.norm)
    narrow.config.tie_word_embeddings = False
    return narrow.eval()


class SlicedRMSNorm(nn.Module):
    """RMSNorm of a sliced state: its weight has gone into the projections, its mean is still over all D components."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.hidden_size = int(norm.weight.numel())
        self.eps = float(norm.variance_epsilon)

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise [..., W]."""
        mean_square = hidden.float().pow(2).sum(-1, keepdim=True) / self.hidden_size
        return (hidden.float() * torch.rsqrt(mean_square + self.eps)).to(hidden.dtype)


class SlicedLayer(nn.Module):
    """A Llama layer between sliced states: each sublayer reads one basis and writes the next."""

    def __init__(self, layer: Any, entering_DW: Tensor, middle_DW: Tensor, leaving_DW: Tensor) -> None:
        super().__init__()
        self.self_attn: Any = layer.self_attn
        self.mlp: Any = layer.mlp
        read = ((layer.input_layernorm, entering_DW), (layer.post_attention_layernorm, middle_DW))
        for (norm, basis_DW), (part, names) in zip(read, _INPUTS):
            for name in names:
                old = getattr(getattr(self, part), name)
                setattr(getattr(self, part), name, _linear(_times(old.weight * norm.weight, basis_DW), old.bias))
        for basis_DW, (part, name) in zip((middle_DW, leaving_DW), _OUTPUTS):
            old = getattr(getattr(self, part), name)
            weight_WH = _times(old.weight.T, basis_DW).T
            setattr(getattr(self, part), name, _linear(weight_WH, None))
        self.input_layernorm = SlicedRMSNorm(layer.input_layernorm)
        self.post_attention_layernorm = SlicedRMSNorm(layer.post_attention_layernorm)
        dtype = layer.self_attn.o_proj.weight.dtype
        self.attention_shortcut_WW = nn.Parameter((entering_DW.T @ middle_DW).to(dtype))
        self.mlp_shortcut_WW = nn.Parameter((middle_DW.T @ leaving_DW).to(dtype))

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """As the layer that it was made from."""
        attended = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)[0]
        hidden_states = hidden_states @ self.attention_shortcut_WW + attended
        return hidden_states @ self.mlp_shortcut_WW + self.mlp(self.post_attention_layernorm(hidden_states))


def _times(weight: Tensor, basis: Tensor) -> Tensor:
    """``weight [.., D] @ basis [D, W]`` in double precision, in the weight's own type."""
    return (weight.double() @ basis).to(weight.dtype)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def _projections(layer: Any) -> list[tuple[str, Any]]:
    reading = [(name, getattr(getattr(layer, part), name)) for part, names in _INPUTS for name in names]
    return reading + [(name, getattr(getattr(layer, part), name)) for part, name in _OUTPUTS]


def _checked(n_remove: Any, n_layers: int) -> int:
    return check_n_remove(n_remove, np.ones(n_layers, dtype=bool))


def _decoder(model: Any) -> Any:
    return model.get_decoder()


def _head(model: Any) -> Any:
    return model.get_output_embeddings()


def _norms(model: nn.Module) -> list[Any]:
    """Every norm of a Llama-style model in the order of its forward, or an error that says what is missing."""
    try:
        decoder = _decoder(model)
        norms: list[Any] = []
        for layer in decoder.layers:
            biased = [name for name, module in _projections(layer)[-2:] if module.bias is not None]
            if biased:
                raise AttributeError(f"no bias on {biased}")
            known = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
            if {name for name, _ in layer.named_children()} != known:
                raise AttributeError(f"layers made of {sorted(known)}, not {[n for n, _ in layer.named_children()]}")
            norms += [layer.input_layernorm, layer.post_attention_layernorm]
        norms.append(decoder.norm)
        for norm in norms:
            if set(dict(norm.named_parameters())) != {"weight"} or not hasattr(norm, "variance_epsilon"):
                raise AttributeError(f"RMSNorm, not {type(norm).__name__}")
        if _head(model) is None:
            raise AttributeError("an LM head")
    except AttributeError as error:
        raise UnsupportedModelError(
            f"SliceGPT is implemented for Llama-style models; {type(model).__name__} lacks what it needs: {error}"
        ) from error
    return norms

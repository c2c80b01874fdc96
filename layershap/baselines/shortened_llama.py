"""Shortened LLaMA: rate each layer once, by perplexity, by a Taylor expansion or by magnitude.

Shapes: L layers, B sequences of a block, T tokens, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from layershap.baselines.activations import token_blocks
from layershap.baselines.base import FitInput, Outcome, RankingPruner
from layershap.baselines.perplexity import perplexity_game
from layershap.calibration import IGNORE
from layershap.compensation import Compensation
from layershap.masks import leave_one_out_masks
from layershap.model.io import evaluation_mode, token_logits
from layershap.model.stack import LayersArgument
from layershap.protocols import FloatArray

Criterion = Literal["perplexity", "taylor", "magnitude"]

_FIRST, _LAST = 4, 2


class ShortenedLlama(RankingPruner):
    """Rate each layer once and remove the layers of the lowest importance.

    Parameters
    ----------
    n_remove : int or float, optional
        Number of layers that `transform` removes by default, or a fraction of all layers (0.25).
    criterion : {'perplexity', 'taylor', 'magnitude'}, default='perplexity'
        Importance of a layer.

        - 'perplexity': perplexity of the model without the layer.
        - 'taylor': ``sum |w dL/dw|`` over the layer's weights, L being the mean NLL on the calibration text.
        - 'magnitude': ``sum |w|`` over the layer's weights, which needs no text.
    protect_ends : bool, default=False
        True never removes the first four and the last two layers: the paper's Taylor+ and Mag+.
    protect : sequence of int, default=()
        Layers that are never removed. Layers that can't be removed alone are protected in any case.
    layers : str, sequence of nn.Module or LayerStack, optional
        Where the layers are, if the rule can't know (`layershap.find_layers`); or the layers, if found before.
    copy : bool, default=True
        True makes `transform` prune a deep copy; False, the model that it is given.
    compensation : Compensation, optional
        Change of the kept layers' weights by which `transform` makes up for the removed ones
        (`layershap.compensation`).
    ledger : path, optional
        Append-only file of evaluated masks, for 'perplexity' only.

    Attributes
    ----------
    importance_ : ndarray [L]
        Importance of each layer; for 'perplexity' its logarithm, the mean NLL in nats. NaN for protected layers.

    See Also
    --------
    SLEB : Rates the layers again after each removal.

    References
    ----------
    Kim et al., Shortened LLaMA: Depth Pruning for Large Language Models with Comparison of Retraining Methods, 2024,
    arXiv 2402.02834, section 3. As in the authors' code, the weights are the parameters named ``weight``: matrices and
    norms, no biases. No retraining.
    """

    def __init__(
        self,
        n_remove: int | float | None = None,
        *,
        criterion: Criterion = "perplexity",
        protect_ends: bool = False,
        protect: Sequence[int] = (),
        layers: LayersArgument = None,
        copy: bool = True,
        compensation: Compensation | None = None,
        ledger: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(n_remove, protect=protect, layers=layers, copy=copy, compensation=compensation)
        self.criterion = criterion
        self.protect_ends = protect_ends
        self.ledger = ledger

    def _importance(self, inputs: FitInput) -> tuple[FloatArray, Outcome]:
        if self.protect_ends:
            inputs.removable[:_FIRST] = False
            inputs.removable[-_LAST:] = False
            if not inputs.removable.any():
                raise ValueError(
                    f"protect_ends keeps the first {_FIRST} and the last {_LAST} layers; of this model's "
                    f"{len(inputs.stack)} layers none is left to remove. Use protect_ends=False."
                )
            inputs.checked_n_remove()
        if self.criterion == "perplexity":
            return self._perplexity(inputs)
        if self.criterion == "taylor":
            return taylor_importance(inputs), Outcome(layer_runs=3 * len(inputs.stack))
        if self.criterion == "magnitude":
            sums = [sum(float(w.detach().double().abs().sum()) for w in weights(m)) for m in inputs.stack.layers]
            return np.array(sums), Outcome()
        raise ValueError(f"criterion must be 'perplexity', 'taylor' or 'magnitude', got {self.criterion!r}")

    def _perplexity(self, inputs: FitInput) -> tuple[FloatArray, Outcome]:
        with perplexity_game(inputs, self.ledger) as game:
            importance_L = np.full(len(inputs.stack), np.nan)
            # A model that breaks without the layer is the worst there is.
            nll = -game(leave_one_out_masks(len(inputs.stack))[inputs.removable])
            importance_L[inputs.removable] = np.nan_to_num(nll, nan=np.inf, posinf=np.inf, neginf=-np.inf)
            return importance_L, Outcome(game.n_evaluated, game.layer_runs)


def weights(layer: nn.Module) -> list[nn.Parameter]:
    """The parameters of a layer that Taylor and magnitude count."""
    found = [parameter for name, parameter in layer.named_parameters() if name.endswith("weight")]
    if not all(parameter.is_floating_point() for parameter in found):
        raise ValueError("Taylor and magnitude need floating-point weights; this model's are quantised")
    return found


def taylor_importance(inputs: FitInput) -> FloatArray:
    """``sum |w dL/dw|`` per layer [L]; the model's own gradients and flags stay as they are."""
    model = inputs.model
    per_layer = [weights(layer) for layer in inputs.stack.layers]
    parameters = [parameter for found in per_layer for parameter in found]
    required = [parameter.requires_grad for parameter in parameters]
    tokens = int(inputs.calibration.counts_S.sum())
    gradients = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad(), evaluation_mode(model):
            for ids_BT, labels_BT in token_blocks(model, inputs.calibration):
                loss = _sum_nll(token_logits(model, ids_BT), labels_BT) / tokens
                for total, found in zip(gradients, torch.autograd.grad(loss, parameters, allow_unused=True)):
                    if found is not None:
                        total += found
    finally:
        for parameter, flag in zip(parameters, required):
            parameter.requires_grad_(flag)
    saliency = iter(
        float((parameter.detach().float() * gradient).abs().double().sum())
        for parameter, gradient in zip(parameters, gradients)
    )
    return np.array([sum(next(saliency) for _ in found) for found in per_layer])


def _sum_nll(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    return nn.functional.cross_entropy(
        logits_BTV[:, :-1].float().flatten(0, 1),
        labels_BT[:, 1:].flatten().to(logits_BTV.device),
        ignore_index=IGNORE,
        reduction="sum",
    )

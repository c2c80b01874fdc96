"""Linear layers by what they are: weights as [outputs, inputs], with or without a bias.

Shapes: N tokens, D outputs, F inputs, one more with a bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from layershap.exceptions import UnsupportedModelError


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer whose weight is its own parameter, not made of others (weight norm)."""
    return isinstance(module, nn.Linear | Conv1D) and module._parameters.get("weight") is not None


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer whose weights are changed in place.

    Attributes
    ----------
    module : nn.Linear or Conv1D
        The layer.
    """

    module: nn.Module

    @classmethod
    def of(cls, module: nn.Module, where: str) -> LinearLayer:
        """Raise `UnsupportedModelError` unless a module is a plain linear layer."""
        if isinstance(module, nn.Linear | Conv1D) and not is_linear(module):
            raise UnsupportedModelError(
                f"the weight of the last linear layer of {where} must be a parameter to be refitted, it is made of "
                "others (weight norm, a pruning mask), which would undo the change; make it one first "
                "(torch.nn.utils.parametrize.remove_parametrizations, torch.nn.utils.prune.remove)"
            )
        if not is_linear(module):
            raise UnsupportedModelError(
                f"the last module of {where} that writes to the residual stream must be a linear layer to be refitted, "
                f"it is a {type(module).__name__}; Rescale may serve"
            )
        return cls(module)

    @property
    def weight_DF(self) -> Tensor:
        """A view of the weights without the bias [D, F]."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight.detach().T if isinstance(self.module, Conv1D) else weight.detach()

    @property
    def bias_D(self) -> Tensor | None:
        """A view of the bias, None where there is none."""
        bias = self.module.bias
        return bias.detach() if isinstance(bias, Tensor) else None

    @property
    def n_inputs(self) -> int:
        """F: number of inputs, the bias counted as one."""
        return self.weight_DF.shape[1] + (self.bias_D is not None)

    def inputs(self, inputs: Tensor) -> Tensor:
        """A call's input as [N, F], with a column of ones for the bias."""
        rows_NF = inputs.flatten(0, -2)
        return rows_NF if self.bias_D is None else torch.cat([rows_NF, torch.ones_like(rows_NF[:, :1])], dim=1)

    def snapshot(self) -> tuple[Tensor, Tensor | None]:
        """Copies of weights and bias, for `set`."""
        return self.weight_DF.clone(), None if self.bias_D is None else self.bias_D.clone()

    def set(self, base: tuple[Tensor, Tensor | None], change_DF: Tensor | None = None) -> None:
        """Set the weights to `base` plus a change."""
        weight_DF, bias_D = base
        n_weights = weight_DF.shape[1]
        self.weight_DF.copy_(weight_DF if change_DF is None else weight_DF + change_DF[:, :n_weights])
        if bias_D is not None and self.bias_D is not None:
            self.bias_D.copy_(bias_D if change_DF is None else bias_D + change_DF[:, n_weights])

    def compose(self, change_DD: Tensor) -> None:
        """Put a linear map after the layer, given as its difference from the identity."""
        change_DD = change_DD.to(self.weight_DF.device)
        self.weight_DF.add_((change_DD @ self.weight_DF.to(change_DD)).to(self.weight_DF))
        if self.bias_D is not None:
            self.bias_D.add_((change_DD @ self.bias_D.to(change_DD)).to(self.bias_D))

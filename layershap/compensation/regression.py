"""Ridge regression of what a linear layer should add to its outputs, from streamed products.

Shapes: N tokens, F inputs of the linear layer (one more for its bias), D outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor


class StreamedRidge:
    """Sums of products over tokens, from which the best change of a linear layer is solved for any ridge.

    The products take 4 F (F + D) bytes on the device, and a solution 16 F^2 more.

    Parameters
    ----------
    n_inputs, n_outputs : int
        F and D.
    device : torch.device
        Where the sums are kept.
    """

    def __init__(self, n_inputs: int, n_outputs: int, device: torch.device) -> None:
        self._gram_FF = torch.zeros(n_inputs, n_inputs, device=device)
        self._moment_FD = torch.zeros(n_inputs, n_outputs, device=device)
        self.n_tokens = 0

    def add(self, inputs_NF: Tensor, missing_ND: Tensor, weights_N: Tensor) -> None:
        """Count tokens: their inputs, what the outputs should be more than they are, and each token's weight."""
        roots_N1 = weights_N.sqrt()[:, None]
        inputs_NF = inputs_NF.float() * roots_N1
        self._gram_FF.addmm_(inputs_NF.T, inputs_NF)
        self._moment_FD.addmm_(inputs_NF.T, missing_ND.float() * roots_N1)
        self.n_tokens += len(inputs_NF)

    def change(self, ridge: float) -> Tensor:
        """The change of the weights [D, F] that shrinks towards none.

        Minimises the weighted squared error plus ``ridge`` times the Gram matrix's mean diagonal times the squared
        change.
        """
        gram_FF = self._gram_FF.double()
        gram_FF.diagonal().add_(ridge * gram_FF.diagonal().mean())
        factor_FF = torch.linalg.cholesky(gram_FF)
        return torch.cholesky_solve(self._moment_FD.double(), factor_FF).T

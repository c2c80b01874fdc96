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
        self._gram_FF = torch.zeros(n_inputs, n_inputs, dtype=torch.float32, device=device)
        self._moment_FD = torch.zeros(n_inputs, n_outputs, dtype=torch.float32, device=device)
        self.n_tokens = 0

    def add(self, inputs_NF: Tensor, missing_ND: Tensor, weights_N: Tensor) -> None:
        """Count tokens: their inputs, what the outputs should be more than they are, and each token's weight."""
        roots_N1 = weights_N.sqrt()[:, None]
        inputs_NF = inputs_NF.float() * roots_N1
        self._gram_FF.addmm_(inputs_NF.T, inputs_NF)
        self._moment_FD.addmm_(inputs_NF.T, missing_ND.float() * roots_N1)
        self.n_tokens += len(inputs_NF)

    @property
    def finite(self) -> bool:
        """Whether all sums are numbers."""
        return bool(torch.isfinite(self._gram_FF).all()) and bool(torch.isfinite(self._moment_FD).all())

    def change(self, ridge: float) -> Tensor:
        """The change of the weights [D, F] that shrinks towards none.

        Minimises the weighted squared error plus ``ridge`` times the Gram matrix's mean diagonal times the squared
        change.
        """
        gram_FF = self._gram_FF.double()
        strength = ridge * gram_FF.diagonal().mean()
        moment_FD = self._moment_FD.double()
        noise = 8 * torch.finfo(torch.float32).eps * torch.linalg.matrix_norm(gram_FF)
        if strength > noise:
            gram_FF.diagonal().add_(strength)
            factor_FF = torch.linalg.cholesky(gram_FF)
            del gram_FF
            return torch.cholesky_solve(moment_FD, factor_FF).T
        # So weak a ridge would magnify the rounding of the sums: directions that hold nothing else stay as they are.
        values_F, vectors_FF = torch.linalg.eigh(gram_FF)
        inverse_F = torch.where(values_F > noise, 1 / (values_F + strength), 0.0)
        return (vectors_FF @ ((vectors_FF.T @ moment_FD) * inverse_F[:, None])).T

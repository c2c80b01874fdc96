"""The paper's two-layer network.

Shapes: M masks, L layers.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import nn

from layershap.limits import check_int
from layershap.protocols import FloatArray, MaskArray


class PaperMLP(RegressorMixin, BaseEstimator):
    """The paper's two-layer network: Linear(L, 2L) -> CELU -> Linear(2L, 1) -> sigmoid, trained by SGD on the MSE.

    Parameters
    ----------
    epochs : int, default=300
        Number of passes over the masks.
    batch_size : int, default=300
        Number of masks per step.
    learning_rate : float, default=0.008
        Initial learning rate, with momentum 0.9.
    decay_every : int or None, default=100
        Number of passes after which the learning rate falls to a tenth, again and again; None keeps it, as the authors'
        script for RWKV does.
    random_state : int, RandomState or None, default=None
        Seed of the initial weights and of the order of the masks. `LayerPruner` seeds it if it is None.

    See Also
    --------
    HammingProcess : The default surrogate, better from fewer masks.
    layershap.LayerPruner.paper : The whole published method.

    References
    ----------
    Pruning as a Cooperative Game, arXiv 2602.07804, section 3 and released code.
    """

    def __init__(
        self,
        *,
        epochs: int = 300,
        batch_size: int = 300,
        learning_rate: float = 0.008,
        decay_every: int | None = 100,
        random_state: Any = None,
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.decay_every = decay_every
        self.random_state = random_state

    def fit(self, masks: MaskArray, scores: FloatArray) -> PaperMLP:
        """Fit on masks [M, L] and scores [M]."""
        for name in ("epochs", "batch_size"):
            check_int(f"PaperMLP's {name}", getattr(self, name), 1)
        if self.decay_every is not None:
            check_int("PaperMLP's decay_every", self.decay_every, 1, other="None")
        rate: Any = self.learning_rate
        if not isinstance(rate, Real) or not 0 < float(rate) < float("inf"):
            raise ValueError(f"PaperMLP's learning_rate must be a positive number, got {rate!r}")
        # Neither a user's `torch.inference_mode`, in which nothing learns, nor their default device reaches in here.
        with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
            self._train(np.asarray(masks, dtype=np.float32), np.asarray(scores, dtype=np.float32))
        return self

    def _train(self, masks: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
        inputs_ML, targets_M = torch.from_numpy(masks), torch.from_numpy(scores)
        n_masks, n_layers = inputs_ML.shape
        seed = int(check_random_state(self.random_state).randint(2**31))
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self._network(n_layers)
        optimizer = torch.optim.SGD(network.parameters(), lr=self.learning_rate, momentum=0.9)
        never = self.epochs + 1
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=self.decay_every or never, gamma=0.1)
        for _ in range(self.epochs):
            for batch in torch.randperm(n_masks, generator=generator).split(self.batch_size):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(network(inputs_ML[batch])[:, 0], targets_M[batch])
                loss.backward()
                optimizer.step()
            schedule.step()
        self.n_features_in_ = n_layers
        self.weights_ = [p.detach().numpy().copy() for p in network.parameters()]

    def predict(self, masks: MaskArray) -> FloatArray:
        """Predicted scores [M] of `masks` [M, L], in (0, 1)."""
        check_is_fitted(self)
        with torch.inference_mode(), torch.device("cpu"):
            network = self._network(self.n_features_in_)
            for parameter, value in zip(network.parameters(), self.weights_, strict=True):
                parameter.copy_(torch.from_numpy(value))
            return network(torch.from_numpy(np.asarray(masks, dtype=np.float32)))[:, 0].double().numpy()

    @staticmethod
    def _network(n_layers: int) -> Any:
        return nn.Sequential(nn.Linear(n_layers, 2 * n_layers), nn.CELU(), nn.Linear(2 * n_layers, 1), nn.Sigmoid())

"""Surrogates: regressions from masks to scores. Any scikit-learn regressor serves as well.

Shapes: M masks, L layers, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import RidgeCV
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import nn

from layershap.protocols import FloatArray, MaskArray


class PairwiseRidge(RegressorMixin, BaseEstimator):
    """Ridge regression on the removed layers and all their pairs, with values in closed form.

    ``f(m) = b + sum_i a_i r_i + sum_{i<j} c_ij r_i r_j`` with ``r = 1 - m``: an intact model costs nothing, each
    removal has its price, each pair of removals an interaction. Reaches a held-out R2 of 0.99 from 64 masks of a
    12-layer model, where the paper's network has 0.47 from 512.

    Parameters
    ----------
    alphas : sequence of float, optional
        Penalties tried by leave-one-out cross-validation.

    Attributes
    ----------
    main_effects_ : ndarray [L]
        ``a``.
    interactions_ : ndarray [L, L]
        ``c``, symmetric with a zero diagonal.
    intercept_ : float
        ``b``.
    alpha_ : float
        The penalty chosen.
    """

    def __init__(self, alphas: Sequence[float] | None = None) -> None:
        self.alphas = alphas

    def fit(self, masks: MaskArray, scores: FloatArray) -> PairwiseRidge:
        """Fit on masks [M, L] and scores [M]."""
        masks_ML = np.asarray(masks, dtype=bool)
        scores_M = np.asarray(scores, dtype=np.float64)
        n_layers = masks_ML.shape[1]
        alphas = np.logspace(-4, 2, 13) if self.alphas is None else np.asarray(self.alphas)
        ridge = RidgeCV(alphas=alphas).fit(self._features(masks_ML), scores_M)
        self.n_features_in_ = n_layers
        self.alpha_ = float(ridge.alpha_)
        self.intercept_ = float(ridge.intercept_)
        self.main_effects_ = ridge.coef_[:n_layers].copy()
        self.interactions_ = np.zeros((n_layers, n_layers))
        self.interactions_[np.triu_indices(n_layers, 1)] = ridge.coef_[n_layers:]
        self.interactions_ += self.interactions_.T
        return self

    def predict(self, masks: MaskArray) -> FloatArray:
        """Predicted scores [M]."""
        check_is_fitted(self)
        removed_ML = (~np.asarray(masks, dtype=bool)).astype(np.float64)
        pairs_M = 0.5 * np.einsum("ml,ml->m", removed_ML @ self.interactions_, removed_ML)
        return self.intercept_ + removed_ML @ self.main_effects_ + pairs_M

    def shapley_values(self, strata: Sequence[int] | None = None) -> FloatArray:
        """Values [L] in closed form.

        The marginal contribution of i to a mask is ``-(a_i + sum_j c_ij r_j)``. Under Shapley's weights each other
        layer is out with probability 1/2; in a stratum that keeps k of L, with probability (L - k) / L.

        Parameters
        ----------
        strata : sequence of int, optional
            Numbers of kept layers, equally weighted. By default Shapley's own weights over all sizes.
        """
        check_is_fitted(self)
        n_layers = self.n_features_in_
        removed = 0.5 if strata is None else float(np.mean([(n_layers - k) / n_layers for k in strata]))
        return -(self.main_effects_ + removed * self.interactions_.sum(axis=1))

    @staticmethod
    def _features(masks_ML: MaskArray) -> FloatArray:
        removed_ML = (~masks_ML).astype(np.float64)
        i, j = np.triu_indices(masks_ML.shape[1], 1)
        return np.hstack([removed_ML, removed_ML[:, i] * removed_ML[:, j]])


class PaperMLP(RegressorMixin, BaseEstimator):
    """The paper's two-layer network: Linear(L, 2L) -> CELU -> Linear(2L, 1) -> sigmoid, trained by SGD on the MSE.

    Parameters
    ----------
    epochs : int, default=300
        Passes over the masks; the learning rate falls to a tenth every 100.
    batch_size : int, default=300
        Masks per step.
    learning_rate : float, default=0.008
        Initial rate, with momentum 0.9.
    random_state : int, RandomState or None, default=None
        Of the initial weights and the order of the masks. `LayerPruner` sets it from its own if it is None.

    References
    ----------
    Pruning as a Cooperative Game, arXiv 2602.07804, section 3 and released code.
    """

    def __init__(
        self, *, epochs: int = 300, batch_size: int = 300, learning_rate: float = 0.008, random_state: Any = None
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state

    def fit(self, masks: MaskArray, scores: FloatArray) -> PaperMLP:
        """Fit on masks [M, L] and scores [M]."""
        inputs_ML = torch.from_numpy(np.asarray(masks, dtype=np.float32))
        targets_M = torch.from_numpy(np.asarray(scores, dtype=np.float32))
        n_masks, n_layers = inputs_ML.shape
        seed = int(check_random_state(self.random_state).randint(2**31))
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self._network(n_layers)
        optimizer = torch.optim.SGD(network.parameters(), lr=self.learning_rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=100, gamma=0.1)
        with torch.enable_grad():
            for _ in range(self.epochs):
                for batch in torch.randperm(n_masks, generator=generator).split(self.batch_size):
                    optimizer.zero_grad()
                    loss = nn.functional.mse_loss(network(inputs_ML[batch])[:, 0], targets_M[batch])
                    loss.backward()
                    optimizer.step()
                schedule.step()
        self.n_features_in_ = n_layers
        self.weights_ = [p.detach().numpy().copy() for p in network.parameters()]
        return self

    def predict(self, masks: MaskArray) -> FloatArray:
        """Predicted scores [M], in (0, 1)."""
        check_is_fitted(self)
        network = self._network(self.n_features_in_)
        with torch.inference_mode():
            for parameter, value in zip(network.parameters(), self.weights_, strict=True):
                parameter.copy_(torch.from_numpy(value))
            return network(torch.from_numpy(np.asarray(masks, dtype=np.float32)))[:, 0].double().numpy()

    @staticmethod
    def _network(n_layers: int) -> Any:
        return nn.Sequential(nn.Linear(n_layers, 2 * n_layers), nn.CELU(), nn.Linear(2 * n_layers, 1), nn.Sigmoid())

"""A Gaussian process whose kernel counts the layers in which two masks differ, each with a length of its own.

Shapes: M masks fitted, N other masks, L layers, B vectors of scores, K = L + 1 coalition sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, log

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from layershap.protocols import FloatArray, MaskArray
from layershap.shapley.semivalues import Semivalue

_JITTER = 1e-6
_TYPICAL_RATE = log(0.15)
_PRIOR_PRECISION = 0.1
"""A weak pull of the log rates towards a typical one, for layers on which the masks say little."""


class HammingProcess(RegressorMixin, BaseEstimator):
    """Gaussian process regression on masks with the kernel ``s^2 exp(-sum_l rate_l [m_l != m'_l])``.

    Two masks score alike if they differ in few layers and in layers that matter little; how much each layer matters is
    learned by maximum marginal likelihood. The process assumes no order of interaction, and its values are known in
    closed form: under the product kernel the mean over all coalitions of a size is a coefficient of a polynomial.

    Parameters
    ----------
    max_likelihood_masks : int, default=400
        Maximum number of masks, evenly taken, from which the rates are learned; the fit itself uses all masks. Learning
        takes the cube of their number per step.
    max_iter : int, default=40
        Maximum number of L-BFGS steps on the marginal likelihood.

    Attributes
    ----------
    rates_ : ndarray [L]
        Decay rate of each layer: how fast two masks that differ in it cease to score alike.
    noise_ : float
        Noise variance over the variance of the scores.

    See Also
    --------
    PairwiseRidge : Assumes interactions of pairs at most.
    LinearRidge : Assumes no interactions.
    BootstrapEnsemble : Gives any surrogate a spread of its predictions.

    References
    ----------
    Rasmussen & Williams, Gaussian processes for machine learning, 2006, chapters 2 and 5.
    """

    def __init__(self, *, max_likelihood_masks: int = 400, max_iter: int = 40) -> None:
        self.max_likelihood_masks = max_likelihood_masks
        self.max_iter = max_iter

    def fit(self, masks: MaskArray, scores: FloatArray) -> HammingProcess:
        """Fit on masks [M, L] and scores [M]."""
        masks_ML = np.asarray(masks, dtype=bool)
        scores_M = np.asarray(scores, dtype=np.float64)
        self.n_features_in_ = masks_ML.shape[1]
        self.masks_ = masks_ML
        self.mean_ = float(scores_M.mean())
        self.scale_ = float(scores_M.std()) or 1.0
        rows = np.unique(np.linspace(0, len(masks_ML) - 1, self.max_likelihood_masks).round().astype(int))
        self.amplitude_, self.noise_, self.rates_ = self._learned(
            masks_ML[rows], (scores_M[rows] - self.mean_) / self.scale_
        )
        self._factor = cho_factor(self._covariance(masks_ML), lower=True)
        self.weights_ = cho_solve(self._factor, (scores_M - self.mean_) / self.scale_)
        return self

    def predict(self, masks: MaskArray) -> FloatArray:
        """Predicted scores [N] of `masks` [N, L]: the posterior mean."""
        check_is_fitted(self)
        return self.mean_ + self.scale_ * (self._kernel(np.asarray(masks, dtype=bool), self.masks_) @ self.weights_)

    def predict_spread(self, masks: MaskArray) -> FloatArray:
        """Posterior standard deviations [N] of the scores of `masks` [N, L]."""
        check_is_fitted(self)
        cross_NM = self._kernel(np.asarray(masks, dtype=bool), self.masks_)
        explained_N = (cross_NM * cho_solve(self._factor, cross_NM.T).T).sum(axis=1)
        return self.scale_ * np.sqrt(np.maximum(self.amplitude_ - explained_N, 0.0))

    def shapley_values(self, strata: Sequence[int] | None = None) -> FloatArray:
        """Values of the posterior mean, in closed form.

        Parameters
        ----------
        strata : sequence of int, optional
            Numbers of kept layers, equally weighted. By default Shapley's own weights over all sizes.

        Returns
        -------
        ndarray [L]
            Values of the layers.
        """
        check_is_fitted(self)
        return self.scale_ * (self.weights_ @ self._kernel_values(self.masks_, strata))

    def interaction_values(self, strata: Sequence[int] | None = None) -> FloatArray:
        """Pairwise interactions [L, L] of the posterior mean, in closed form: the mean discrete second derivative.

        Without `strata` it is the Shapley interaction index, over all sizes alike; with `strata`, the mean over their
        masks.
        """
        check_is_fitted(self)
        n_layers = self.n_features_in_
        pairs = np.zeros((n_layers, n_layers))
        weight_K = _weights_of_others(n_layers, strata)
        inside_ML, outside_ML = self._factors(self.masks_)
        slopes_ML = inside_ML - outside_ML
        for layer in range(n_layers):
            others = np.delete(np.arange(n_layers), layer)
            rest_MLK = _products_of_others(inside_ML[:, others], outside_ML[:, others])
            means_ML = rest_MLK @ weight_K
            weighted_M = self.amplitude_ * self.scale_ * self.weights_ * slopes_ML[:, layer]
            pairs[layer, others] = weighted_M @ (slopes_ML[:, others] * means_ML)
        return (pairs + pairs.T) / 2

    def refitted_values(self, masks: MaskArray, scores: FloatArray, strata: Sequence[int] | None = None) -> FloatArray:
        """Values [B, L] over `strata` for B other score vectors `scores` [B, M] of the same `masks` [M, L].

        The kernel stays that of the fit. `LayerPruner` bootstraps the calibration sequences with these values.
        """
        check_is_fitted(self)
        masks_ML = np.asarray(masks, dtype=bool)
        scores_BM = np.atleast_2d(scores)
        centred_BM = scores_BM - scores_BM.mean(axis=1, keepdims=True)
        weights_MB = cho_solve(cho_factor(self._covariance(masks_ML), lower=True), centred_BM.T)
        return weights_MB.T @ self._kernel_values(masks_ML, strata)

    def _kernel_values(self, centres_ML: MaskArray, strata: Sequence[int] | None) -> FloatArray:
        """The values of the kernel as a game, one for each mask it is centred on [M, L].

        A layer kept in a coalition contributes 1 where the centre keeps it too, else ``exp(-rate)``; so the sum of the
        kernel over all coalitions of size k is the coefficient of ``z^k`` in ``prod_l (out_l + in_l z)``.
        """
        n_layers = self.n_features_in_
        semivalue = Semivalue.shapley(n_layers) if strata is None else Semivalue.of_strata(n_layers, strata)
        inside_ML, outside_ML = self._factors(centres_ML)
        others_MLK = _products_of_others(inside_ML, outside_ML)
        ways_K = _ways(n_layers - 1)
        kept_ML = others_MLK @ (semivalue.kept[1:] / ways_K)  # the layer and k - 1 others
        lost_ML = others_MLK @ (semivalue.lost[:-1] / ways_K)
        return self.amplitude_ * (inside_ML * kept_ML - outside_ML * lost_ML)

    def _factors(self, centres_ML: MaskArray) -> tuple[FloatArray, FloatArray]:
        """What a layer contributes to the kernel if kept, and if removed [M, L]."""
        decay_L = np.exp(-self.rates_)
        return np.where(centres_ML, 1.0, decay_L), np.where(centres_ML, decay_L, 1.0)

    def _kernel(self, masks_NL: MaskArray, masks_ML: MaskArray) -> FloatArray:
        left, right = masks_NL.astype(np.float64), masks_ML.astype(np.float64)
        distance_NM = (left * self.rates_) @ (1 - right).T + ((1 - left) * self.rates_) @ right.T
        return self.amplitude_ * np.exp(-distance_NM)

    def _covariance(self, masks_ML: MaskArray) -> FloatArray:
        return self._kernel(masks_ML, masks_ML) + (self.noise_ + _JITTER) * np.eye(len(masks_ML))

    def _learned(self, masks_ML: MaskArray, targets_M: FloatArray) -> tuple[float, float, FloatArray]:
        """Amplitude, noise and rates of the highest marginal likelihood."""
        differ = torch.from_numpy(masks_ML.astype(np.float64))
        targets = torch.from_numpy(targets_M)
        start = np.concatenate([[log(4.0), log(1e-2)], np.full(masks_ML.shape[1], _TYPICAL_RATE)])

        def objective(parameters: FloatArray) -> tuple[float, FloatArray]:
            # Neither a user's `torch.inference_mode` nor their default device reaches in here.
            with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
                variables = torch.from_numpy(parameters.copy()).requires_grad_()
                loss = _negative_log_posterior(variables, differ.clone(), targets.clone())
                (gradient,) = torch.autograd.grad(loss, variables)
            return float(loss.detach()), gradient.numpy()

        bounds = [(-4.0, 8.0), (log(1e-8), 1.0)] + [(-12.0, 4.0)] * masks_ML.shape[1]
        found = minimize(
            objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": self.max_iter}
        )
        return float(np.exp(found.x[0])), float(np.exp(found.x[1])), np.exp(found.x[2:])


def _negative_log_posterior(parameters: Tensor, masks_ML: Tensor, targets_M: Tensor) -> Tensor:
    rates = parameters[2:].exp()
    distance = (masks_ML * rates) @ (1 - masks_ML).T
    covariance = parameters[0].exp() * torch.exp(-distance - distance.T)
    covariance = covariance + (parameters[1].exp() + _JITTER) * torch.eye(len(masks_ML), dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance)
    whitened = torch.linalg.solve_triangular(factor, targets_M[:, None], upper=False)
    prior = _PRIOR_PRECISION * ((parameters[2:] - _TYPICAL_RATE) ** 2).sum()
    return 0.5 * ((whitened**2).sum() + prior) + torch.diagonal(factor).log().sum()


def _ways(n_layers: int) -> FloatArray:
    """Coalitions of each size among so many layers."""
    return np.array([comb(n_layers, size) for size in range(n_layers + 1)], dtype=np.float64)


def _weights_of_others(n_layers: int, strata: Sequence[int] | None) -> FloatArray:
    """Weight of each coalition of k = 0 .. L - 2 others in a pair's interaction [L - 1]."""
    ways_K = _ways(n_layers - 2)
    if strata is None:
        return 1 / (n_layers - 1) / ways_K
    share_K = np.zeros(n_layers - 1)
    for kept in strata:
        # The pair takes 0, 1 or 2 of the places of a mask of this size.
        for taken, ordered in ((0, 1), (1, 2), (2, 1)):
            if 0 <= kept - taken <= n_layers - 2:
                share_K[kept - taken] += ordered * comb(n_layers - 2, kept - taken) / comb(n_layers, kept) / len(strata)
    return share_K / ways_K


def _products_of_others(inside_ML: FloatArray, outside_ML: FloatArray) -> FloatArray:
    """Coefficients [M, L, L] of ``prod_{j != l} (outside_j + inside_j z)`` for each layer l, from z^0 to z^(L - 1)."""
    n_masks, n_layers = inside_ML.shape
    before = np.zeros((n_layers + 1, n_masks, n_layers + 1))
    after = np.zeros((n_layers + 1, n_masks, n_layers + 1))
    before[0, :, 0] = after[n_layers, :, 0] = 1.0
    for layer in range(n_layers):
        before[layer + 1] = _times(before[layer], inside_ML[:, layer], outside_ML[:, layer])
        back = n_layers - 1 - layer
        after[back] = _times(after[back + 1], inside_ML[:, back], outside_ML[:, back])
    products = np.zeros((n_masks, n_layers, n_layers))
    for layer in range(n_layers):
        # Degrees: `layer` before it, L - 1 - layer after it.
        for degree in range(layer + 1):
            stop = n_layers - layer
            products[:, layer, degree : degree + stop] += before[layer][:, degree, None] * after[layer + 1][:, :stop]
    return products


def _times(polynomial_MK: FloatArray, inside_M: FloatArray, outside_M: FloatArray) -> FloatArray:
    product = polynomial_MK * outside_M[:, None]
    product[:, 1:] += polynomial_MK[:, :-1] * inside_M[:, None]
    return product

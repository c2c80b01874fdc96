"""From evaluated masks to a surrogate, its quality on held-out masks, and the layers' values.

Shapes: M masks, L layers (here the removable ones), G folds, B resamples of the calibration sequences.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import numpy as np

from layershap.exceptions import SurrogateQualityWarning
from layershap.fitting.heldout import HeldOut, choose_surrogate, held_out
from layershap.fitting.masks import check_n_remove
from layershap.protocols import ClosedFormSurrogate, FloatArray, MaskArray, RefittableSurrogate, Surrogate
from layershap.shapley import permutation, strata_around, stratified_marginals
from layershap.surrogates.fresh import fresh_surrogate

Weights = Literal["strata", "shapley"]

_POOR_R2 = 0.5
_N_PERMUTATIONS = 2000


@dataclass(frozen=True)
class SurrogateFit:
    """A surrogate fitted on all masks, with what cross-validation and a bootstrap say of it.

    Attributes
    ----------
    surrogate : Surrogate
        Fitted on all M masks.
    values : ndarray [L]
        Read from it.
    mask_errors : ndarray [L]
        Delete-a-group jackknife over the folds: how much the values depend on which masks were drawn.
    calibration_errors : ndarray [L]
        Bootstrap over the calibration sequences: how much they depend on the text. NaN where that is unknown.
    resampled_values : ndarray [B, L]
        The values on each resample, behind the calibration errors.
    held_out : HeldOut
        Quality of predictions for unseen masks.
    choice : dict of str to float
        Held-out R2 of the candidates, if the surrogate was chosen among several.
    """

    surrogate: Surrogate
    values: FloatArray
    mask_errors: FloatArray
    calibration_errors: FloatArray
    resampled_values: FloatArray
    held_out: HeldOut
    choice: dict[str, float]

    @property
    def standard_errors(self) -> FloatArray:
        """Both errors together [L]; the calibration's counts where it is known."""
        return np.sqrt(self.mask_errors**2 + np.nan_to_num(self.calibration_errors) ** 2)

    def diagnostics(self) -> dict[str, Any]:
        """The surrogate's quality and the errors of the values, for ``diagnostics_``."""
        return {
            "held_out_r2": self.held_out.r2,
            "held_out_spearman": self.held_out.spearman,
            "held_out_strata": self.held_out.strata,
            "surrogate_choice": self.choice,
            "mask_errors": self.mask_errors,
            "calibration_errors": self.calibration_errors,
        }


def check_weights(weights: Any, n_marginals: Any) -> None:
    """Raise unless the values asked for are known and there are masks to average them from, before work is paid for."""
    if weights not in ("strata", "shapley"):
        raise ValueError(f"weights must be 'strata' or 'shapley', got {weights!r}")
    if isinstance(n_marginals, bool) or not isinstance(n_marginals, Integral) or n_marginals < 1:
        raise ValueError(f"n_marginals must be a positive int (the paper's is 80000), got {n_marginals!r}")


def fit_surrogate(
    surrogate: Surrogate | Literal["auto"],
    masks_ML: MaskArray,
    scores_M: FloatArray,
    resampled_BM: FloatArray,
    *,
    weights: Weights,
    strata: Sequence[int],
    n_marginals: int,
    rng: np.random.Generator,
) -> SurrogateFit:
    """Fit, cross-validate, and read the values.

    Parameters
    ----------
    surrogate : Surrogate or 'auto'
        Cloned, never changed. 'auto' chooses by cross-validation (`choose_surrogate`).
    masks_ML, scores_M : ndarray [M, L], [M]
        Finite scores only.
    resampled_BM : ndarray [B, M]
        The scores on resampled calibration sequences; B = 0 if they can't be had.
    weights : {'strata', 'shapley'}
        Marginal contributions averaged over the strata's sizes (the paper), or over all sizes with Shapley's weights.
    strata : sequence of int
        Numbers of kept layers.
    n_marginals : int
        Sampled masks per layer for a surrogate without a closed form (the paper's Q = 80,000).
    rng : numpy.random.Generator
        Of folds, seeds and samples.

    Warns
    -----
    SurrogateQualityWarning
        Held-out R2 below 0.5.
    """
    seed = int(rng.integers(2**31))
    n_layers = masks_ML.shape[1]
    choice: dict[str, float] = {}
    if isinstance(surrogate, str):
        surrogate, choice = choose_surrogate(masks_ML, scores_M, seed)

    def values_of(model: Surrogate) -> FloatArray:
        # The same draws for every fold, so that their spread is not the sampling's.
        return surrogate_values(model, n_layers, weights, strata, n_marginals, np.random.default_rng(seed))

    quality = held_out(surrogate, masks_ML, scores_M, seed)
    if not quality.r2 >= _POOR_R2:
        warnings.warn(
            f"the surrogate predicts held-out masks poorly (R2 {quality.r2:.2f} on {len(scores_M)} masks), so the "
            "values read from it can't be trusted. Raise n_masks, or use another surrogate (PairwiseRidge needs far "
            "fewer masks than PaperMLP).",
            SurrogateQualityWarning,
            stacklevel=3,
        )
    values_GL = np.array([values_of(model) for model in quality.surrogates])
    n_folds = len(values_GL)
    jackknife = np.sqrt((n_folds - 1) / n_folds * ((values_GL - values_GL.mean(axis=0)) ** 2).sum(axis=0))
    final: Surrogate = fresh_surrogate(surrogate, seed)
    final.fit(masks_ML, scores_M)
    resampled_BL = np.empty((0, n_layers))
    calibration = np.full(n_layers, np.nan)
    if len(resampled_BM) > 1 and isinstance(final, RefittableSurrogate):
        resampled_BL = final.refitted_values(masks_ML, resampled_BM, strata if weights == "strata" else None)
        calibration = resampled_BL.std(axis=0, ddof=1)
    return SurrogateFit(final, values_of(final), jackknife, calibration, resampled_BL, quality, choice)


def surrogate_values(
    surrogate: Surrogate,
    n_layers: int,
    weights: Weights,
    strata: Sequence[int],
    n_marginals: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Values [L] of a fitted surrogate: in closed form if it knows them, else sampled in a few batched calls."""
    if isinstance(surrogate, ClosedFormSurrogate):
        return surrogate.shapley_values(strata if weights == "strata" else None)
    if weights == "strata":
        return stratified_marginals(surrogate.predict, n_layers, strata, n_marginals, rng).values
    return permutation(surrogate.predict, _N_PERMUTATIONS, rng=rng, n_players=n_layers).values


def values_around(
    surrogate: Surrogate,
    removable: MaskArray,
    n_remove: int,
    width: int,
    n_marginals: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Values [L] over the sizes within `width` of `n_remove` removed layers; NaN for protected ones."""
    count = check_n_remove(n_remove, removable)
    n_players = int(removable.sum())
    strata = strata_around(n_players, min(count, n_players - 1), width)
    values = np.full(len(removable), np.nan)
    values[removable] = surrogate_values(surrogate, n_players, "strata", strata, n_marginals, rng)
    return values

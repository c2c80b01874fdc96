"""From masks drawn at random to the layers' values and their errors.

A surrogate gives values in closed form, or nearly; what it misses on masks that it has not seen, averaged with the
values' own weights, corrects them. So the values are unbiased whatever the surrogate, and the better it is the smaller
their error. Only masks whose probability is known enter: none that a search chose.

Shapes: M masks, L layers (here the free players), V veto players, G folds, B resamples of the calibration sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layershap.fitting.drawn import DrawnMasks
from layershap.fitting.heldout import HeldOut, held_out
from layershap.protocols import ClosedFormSurrogate, FloatArray, MaskArray, RefittableSurrogate, Surrogate
from layershap.shapley import SampledMasks, Semivalue, permutation, stratified_marginals
from layershap.surrogates.fresh import fresh_surrogate

_MARGINALS_PER_ORDER = 40
"""An order in which all layers join stands for so many masks of `n_marginals`: 2,000 orders for the paper's 80,000."""


@dataclass(frozen=True)
class ValueSettings:
    """What values are asked for.

    Attributes
    ----------
    strata : tuple of int or None
        Numbers of kept players to average marginal contributions over (the paper); None for Shapley's weights.
    n_marginals : int
        Sampled masks per layer for a surrogate without a closed form (the paper's Q = 80,000).
    unbiased : bool
        Correct the surrogate's values by what it misses.
    """

    strata: tuple[int, ...] | None
    n_marginals: int
    unbiased: bool

    def semivalue(self, n_players: int) -> Semivalue:
        """The weights of coalition sizes."""
        return Semivalue.shapley(n_players) if self.strata is None else Semivalue.of_strata(n_players, self.strata)


@dataclass(frozen=True)
class ValueFit:
    """A surrogate fitted on all masks, values, and how sure they are.

    Attributes
    ----------
    surrogate : Surrogate
        Fitted on all M masks.
    held_out : HeldOut
        Predictions for unseen masks, and the surrogates of the folds.
    masks, scores : ndarray [M, L], [M]
        What they were fitted on.
    settings : ValueSettings
        As asked.
    resampled_scores : ndarray [B, M] of float32, or None
        The scores on resampled calibration sequences, if they can be had; in the precision that their spread needs, as
        they are most of a pickled pruner.
    values, mask_errors : ndarray [L]
        Estimates, and their standard errors by which masks were drawn: 0 where the values are exact, NaN where too few
        masks were drawn to tell.
    resampled_values : ndarray [B, L]
        The values on each resample; B = 0 where they aren't known.
    missing : tuple of int
        Numbers of kept players that enter the values and of which no mask was drawn: there the surrogate is believed.
    """

    surrogate: Surrogate
    held_out: HeldOut
    masks: MaskArray
    scores: FloatArray
    settings: ValueSettings
    resampled_scores: NDArray[np.float32] | None
    values: FloatArray
    mask_errors: FloatArray
    resampled_values: FloatArray
    missing: tuple[int, ...]

    @property
    def calibration_errors(self) -> FloatArray:
        """Bootstrap over the calibration sequences [L]: how much values depend on the text; NaN where it is unknown."""
        if not len(self.resampled_values):
            return np.full(len(self.values), np.nan)
        return self.resampled_values.std(axis=0, ddof=1)

    @property
    def standard_errors(self) -> FloatArray:
        """Both errors together [L]; the calibration's counts where it is known."""
        return np.sqrt(self.mask_errors**2 + np.nan_to_num(self.calibration_errors) ** 2)

    @property
    def exact(self) -> bool:
        """Whether all coalitions that enter the values were evaluated, so that no surrogate is believed."""
        return self.settings.unbiased and _sampled(self.masks, self.settings).exact

    def at(self, strata: Sequence[int], seed: int) -> ValueFit:
        """Values over other strata, from the same masks and the same surrogate."""
        settings = ValueSettings(tuple(strata), self.settings.n_marginals, self.settings.unbiased)
        resampled = None if self.resampled_scores is None else self.resampled_scores.astype(np.float64)
        return _estimated(
            self.surrogate, self.held_out, self.masks, self.scores, settings, resampled_BM=resampled, seed=seed
        )


def fit_values(
    surrogate: Surrogate,
    masks_ML: MaskArray,
    scores_M: FloatArray,
    settings: ValueSettings,
    rng: np.random.Generator,
    *,
    resampled_BM: FloatArray | None = None,
) -> ValueFit:
    """Fit, cross-fit, and estimate the values.

    Parameters
    ----------
    surrogate : Surrogate
        Cloned, never changed.
    masks_ML, scores_M : ndarray [M, L], [M]
        Uniform within each size; finite scores only.
    settings : ValueSettings
        What values are asked for.
    rng : numpy.random.Generator
        Of folds, seeds and samples.
    resampled_BM : ndarray [B, M], optional
        The scores on resampled calibration sequences, if they can be had.
    """
    seed = int(rng.integers(2**31))
    quality = held_out(surrogate, masks_ML, scores_M, seed, _sampled(masks_ML, settings).at_random)
    final: Surrogate = fresh_surrogate(surrogate, seed)
    final.fit(masks_ML, scores_M)
    return _estimated(final, quality, masks_ML, scores_M, settings, resampled_BM=resampled_BM, seed=seed)


def _sampled(masks_ML: MaskArray, settings: ValueSettings) -> SampledMasks:
    return SampledMasks(masks_ML, settings.semivalue(masks_ML.shape[1]))


def _estimated(
    surrogate: Surrogate,
    quality: HeldOut,
    masks_ML: MaskArray,
    scores_M: FloatArray,
    settings: ValueSettings,
    *,
    resampled_BM: FloatArray | None,
    seed: int,
) -> ValueFit:
    """The values of a fitted surrogate, with their errors."""
    values, errors, missing = _corrected(surrogate, quality, masks_ML, scores_M, settings, seed=seed)
    resampled_BL, kept_BM = np.empty((0, masks_ML.shape[1])), None
    if resampled_BM is not None and len(resampled_BM) > 1 and isinstance(surrogate, RefittableSurrogate):
        sampled = _sampled(masks_ML, settings)
        if settings.unbiased and (sampled.exact or quality.is_poor):
            # A surrogate that has not learnt the game doesn't tell how it changes with the text. The masks themselves
            # do, though not as surely where they are few; where all are there, they tell it exactly.
            shifts_BL = sampled.values(resampled_BM - scores_M)
        else:
            # Decisions on resamples are to scatter around the values, not around the surrogate's.
            shifts_BL = surrogate.refitted_values(masks_ML, resampled_BM, settings.strata)
            shifts_BL = shifts_BL - surrogate.refitted_values(masks_ML, scores_M[None], settings.strata)
        resampled_BL, kept_BM = values + shifts_BL, resampled_BM.astype(np.float32)
    return ValueFit(surrogate, quality, masks_ML, scores_M, settings, kept_BM, values, errors, resampled_BL, missing)


def _corrected(
    surrogate: Surrogate,
    quality: HeldOut,
    masks_ML: MaskArray,
    scores_M: FloatArray,
    settings: ValueSettings,
    *,
    seed: int,
) -> tuple[FloatArray, FloatArray, tuple[int, ...]]:
    """The surrogate's values [L] plus what it misses, their errors by the masks drawn, and sizes without a mask."""
    n_layers = masks_ML.shape[1]

    def values_of(model: Surrogate) -> tuple[FloatArray, FloatArray]:
        # The same draws for every fold, so that their spread is not the sampling's.
        return surrogate_values(model, n_layers, settings, np.random.default_rng(seed))

    of_folds = [values_of(model) for model in quality.surrogates]
    values_GL = np.array([values for values, _ in of_folds])
    if not settings.unbiased:
        n_folds = len(values_GL)
        jackknife = np.sqrt((n_folds - 1) / n_folds * ((values_GL - values_GL.mean(axis=0)) ** 2).sum(axis=0))
        values, sampling_L = values_of(surrogate)
        return values, np.hypot(jackknife, sampling_L), ()
    # As all folds share the draws, their mean is no surer of them than each.
    sampling_L = np.mean([errors for _, errors in of_folds], axis=0)
    sampled = _sampled(masks_ML, settings)
    # A held-out mask stands for those of its size that no fold saw; for the share that was drawn it is known what all
    # folds miss on average. Where all masks of a size are there, that is all, and the values are exact.
    seen_M = sampled.seen_shares()
    missed_M = scores_M - (seen_M * quality.of_all_folds + (1 - seen_M) * quality.predictions)
    held_out_M = scores_M - np.where(sampled.at_random, quality.predictions, quality.of_all_folds)
    return (
        values_GL.mean(axis=0) + sampled.values(missed_M),
        np.hypot(sampled.standard_errors(held_out_M), sampling_L),
        tuple(sampled.missing),
    )


def surrogate_values(
    surrogate: Surrogate, n_layers: int, settings: ValueSettings, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Values [L] of a fitted surrogate, in closed form if it knows them, else sampled in a few batched calls; and the
    standard errors [L] of that sampling, 0 in closed form.
    """
    if isinstance(surrogate, ClosedFormSurrogate):
        return surrogate.shapley_values(settings.strata), np.zeros(n_layers)
    if settings.strata is not None:
        found = stratified_marginals(surrogate.predict, n_layers, settings.strata, settings.n_marginals, rng)
    else:
        n_orders = max(settings.n_marginals // _MARGINALS_PER_ORDER, 2)
        found = permutation(surrogate.predict, n_orders, rng=rng, n_players=n_layers)
    return found.values, found.standard_errors


def veto_values(drawn: DrawnMasks) -> tuple[FloatArray, FloatArray]:
    """Values [V] of the veto players and their standard errors by the masks drawn.

    What the coalitions of the free players are worth with all veto players, averaged over the strata, less what they
    are worth without the one. NaN where no mask without it was drawn.
    """
    [values_V] = veto_values_from(drawn, drawn.scores[None], drawn.veto_scores[None])
    count = drawn.veto_masks.shape[1]
    if np.isnan(values_V).all():
        return values_V, values_V.copy()
    of_strata = _of_strata(drawn, drawn.scores[None])
    variance = sum(np.nanvar(scores) / scores.shape[1] for scores in of_strata) / len(of_strata) ** 2
    lost_VC = np.where(np.isfinite(drawn.veto_scores), drawn.veto_scores, np.nan)
    spread_V = lost_VC.var(axis=1, ddof=1) if count > 1 else np.full(len(lost_VC), np.nan)
    return values_V, np.sqrt(variance + spread_V / count)


def veto_values_from(drawn: DrawnMasks, scores_BM: FloatArray, veto_scores_BVC: FloatArray) -> FloatArray:
    """Values [B, V] of the veto players from other scores of what was drawn, and of the coalitions C without each.

    NaN where no mask without the player was drawn, or one has no finite score: there is no saying how much worse a lost
    model is, then.
    """
    of_strata = _of_strata(drawn, scores_BM)
    if not veto_scores_BVC.shape[2] or not of_strata:
        return np.full(veto_scores_BVC.shape[:2], np.nan)
    worth_B = np.mean([np.nanmean(scores, axis=1) for scores in of_strata], axis=0)
    lost_BVC = np.where(np.isfinite(veto_scores_BVC), veto_scores_BVC, np.nan)
    return np.asarray(worth_B[:, None] - lost_BVC.mean(axis=2))


def _of_strata(drawn: DrawnMasks, scores_BM: FloatArray) -> list[FloatArray]:
    """The scores of the masks drawn of each stratum, where there are any."""
    kept_M = drawn.of_players.sum(axis=1)
    return [scores_BM[:, kept_M == size] for size in drawn.strata if (kept_M == size).any()]

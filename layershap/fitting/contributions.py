"""Values, errors and predictions over all layers, from the values of the free players and of those with a veto.

Shapes: M masks, L layers, F free players, P removable layers, B resamples of the calibration sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from layershap.fitting.evidence import Evidence
from layershap.fitting.resampling import resampled_scores
from layershap.fitting.settings import FitSettings
from layershap.fitting.text_game import TextGame
from layershap.fitting.values import ValueFit, ValueSettings, fit_values, veto_values, veto_values_from
from layershap.masks import first_rows
from layershap.protocols import (
    FloatArray,
    InteractionSurrogate,
    MaskArray,
    SelectionEvidence,
    Surrogate,
    UniformSampler,
    Utility,
)
from layershap.shapley import strata_around
from layershap.surrogates.fresh import fresh_surrogate

N_RESAMPLES = 200
"""Bootstrap resamples of the calibration sequences: a probability of 0.5 is then known to 0.035."""


@dataclass(frozen=True)
class Contributions:
    """What the masks drawn at random say of each layer.

    Attributes
    ----------
    fit : ValueFit
        Over the free players.
    free, veto : ndarray [L] of bool
        Which layers these are.
    values, mask_errors, calibration_errors : ndarray [L]
        Values and their standard errors, by the masks and by the text; NaN for protected layers.
    resampled_veto : ndarray [B, V] or None
        Values of the veto players on resampled calibration sequences, if they are known; `fit` has the free players'.
    surrogate : Surrogate
        Fitted on the columns of all removable layers.
    predictions : ndarray [M]
        Held-out predictions of the evaluated masks that were drawn at random over the free players; NaN for others.
    leave_one_outs : ndarray [L]
        What each layer adds to all others, NaN where that was not measured.
    share_above : float
        Share of the masks drawn that score higher than the whole model.
    n_lost : int
        Number of layers whose removal alone loses the model: those with a veto, or more than can all be kept.
    n_unscored : int
        Number of the masks drawn that have no finite score.
    """

    fit: ValueFit
    free: MaskArray
    veto: MaskArray
    values: FloatArray
    mask_errors: FloatArray
    calibration_errors: FloatArray
    resampled_veto: FloatArray | None
    surrogate: Surrogate
    predictions: FloatArray
    leave_one_outs: FloatArray
    share_above: float
    n_lost: int
    n_unscored: int

    @property
    def standard_errors(self) -> FloatArray:
        """Both errors together [L]; the calibration's counts where it is known."""
        return np.sqrt(self.mask_errors**2 + np.nan_to_num(self.calibration_errors) ** 2)

    @property
    def resampled_values(self) -> FloatArray:
        """The values on resampled calibration sequences [B, L]."""
        found = np.tile(self.values, (len(self.fit.resampled_values), 1))
        found[:, self.free] = self.fit.resampled_values
        if self.resampled_veto is not None:
            found[:, self.veto] = self.resampled_veto
        return found

    @property
    def doubtful(self) -> list[int]:
        """Layers whose value has another sign than what they add to all others, beyond two standard errors.

        An exact value is not doubted, and one whose error is unknown can't be.
        """
        contradicts = (np.sign(self.values) * np.sign(self.leave_one_outs) < 0) & (self.mask_errors > 0)
        return [int(layer) for layer in np.flatnonzero(contradicts & (np.abs(self.values) > 2 * self.standard_errors))]

    @cached_property
    def interactions(self) -> FloatArray | None:
        """Pairwise interactions [L, L] over the values' sizes, NaN beyond the free players; None if unknown."""
        surrogate = self.fit.surrogate
        if not isinstance(surrogate, InteractionSurrogate):
            return None
        found = np.full((len(self.free), len(self.free)), np.nan)
        found[np.ix_(self.free, self.free)] = surrogate.interaction_values(self.fit.settings.strata)
        return found

    def at(self, n_remove: int, width: int, seed: int) -> tuple[FloatArray, FloatArray, tuple[int, ...]]:
        """Values [L] over coalitions that lack `n_remove` layers give or take `width`, their errors, and the numbers of
        kept players of which no mask was drawn. NaN beyond the free players.
        """
        n_free = int(self.free.sum())
        found = self.fit.at(strata_around(n_free, min(n_remove, n_free - 1), width), seed)
        over_layers = np.full((2, len(self.free)), np.nan)
        over_layers[:, self.free] = found.values, found.standard_errors
        return over_layers[0], over_layers[1], found.missing

    def for_selection(self, evidence: Evidence) -> SelectionEvidence:
        """What a selector chooses by."""
        return SelectionEvidence(
            self.values,
            evidence.removable,
            self.surrogate,
            evidence.searched,
            evidence.searched_scores,
            evidence.keep_one_of,
            None if evidence.final is None else evidence.final.masks,
        )


def estimate_contributions(
    game: TextGame, evidence: Evidence, settings: FitSettings, rng: np.random.Generator
) -> Contributions:
    """Estimate the layers' values from the masks that were drawn at random."""
    drawn = evidence.drawn
    finite = np.isfinite(drawn.scores)
    masks = drawn.of_players
    asked = settings.values
    strata = None if asked.weights == "shapley" else drawn.strata
    uniform = isinstance(settings.sampler, UniformSampler) and bool(settings.sampler.uniform_within_sizes)
    value_settings = ValueSettings(strata, asked.n_marginals, asked.unbiased and uniform)
    statistics = None
    without_veto = drawn.veto_masks.reshape(-1, len(evidence.removable))
    if isinstance(game.utility, Utility):
        both = np.concatenate([drawn.masks[finite], without_veto])
        statistics = game.statistics(both, game.text.n_value_parts)
    resampled, resampled_veto = np.hsplit(
        resampled_scores(game.utility, statistics, N_RESAMPLES, rng, n_finite=int(finite.sum())), [int(finite.sum())]
    )
    surrogate = type(settings.surrogate).__name__
    game.progress.note(f"fitting the surrogate ({surrogate}) to {int(finite.sum())} masks")
    fit = fit_values(
        settings.surrogate, masks[finite], drawn.scores[finite], value_settings, rng, resampled_BM=resampled
    )
    n_layers = len(evidence.removable)
    values, mask_errors, calibration = (np.full(n_layers, np.nan) for _ in range(3))
    values[drawn.free], mask_errors[drawn.free], calibration[drawn.free] = (
        fit.values,
        fit.mask_errors,
        fit.calibration_errors,
    )
    values[drawn.veto], mask_errors[drawn.veto] = veto_values(drawn)
    again = None
    if len(fit.resampled_values) and len(without_veto):
        of_drawn_BM = np.full((len(resampled), len(finite)), np.nan)
        of_drawn_BM[:, finite] = resampled
        again = veto_values_from(drawn, of_drawn_BM, resampled_veto.reshape(len(resampled), *drawn.veto_scores.shape))
        calibration[drawn.veto] = again.std(axis=0, ddof=1)
    predictions = np.full(len(evidence.masks), np.nan)
    start = min(drawn.n_known, 1)
    of_drawn = np.full(len(finite), np.nan)
    of_drawn[finite] = np.where(fit.held_out.judged, fit.held_out.predictions, np.nan)
    predictions[: len(of_drawn) - start] = of_drawn[start:]
    return Contributions(
        fit=fit,
        free=drawn.free,
        veto=drawn.veto,
        values=values,
        mask_errors=mask_errors,
        calibration_errors=calibration,
        resampled_veto=again,
        surrogate=_of_all_players(fit, evidence, rng),
        predictions=predictions,
        leave_one_outs=_leave_one_outs(evidence),
        share_above=float((drawn.scores[start:] > evidence.baseline).mean()),
        n_lost=int(drawn.lost.sum()),
        n_unscored=int((~finite).sum()),
    )


def _of_all_players(fit: ValueFit, evidence: Evidence, rng: np.random.Generator) -> Surrogate:
    """The surrogate over all removable layers, those with a veto included."""
    drawn = evidence.drawn
    seed = int(rng.integers(2**31))
    if not drawn.veto.any():
        return fit.surrogate
    masks = np.concatenate([drawn.masks, drawn.veto_masks.reshape(-1, len(drawn.veto))])
    scores = np.concatenate([drawn.scores, drawn.veto_scores.reshape(-1)])
    alone = (~evidence.masks).sum(axis=1) == 1
    masks, scores = np.concatenate([masks, evidence.masks[alone]]), np.concatenate([scores, evidence.scores[alone]])
    finite = np.isfinite(scores)
    rows = np.flatnonzero(finite)[first_rows(masks[finite])]
    surrogate: Surrogate = fresh_surrogate(fit.surrogate, seed)
    surrogate.fit(masks[rows][:, evidence.removable], scores[rows])
    return surrogate


def _leave_one_outs(evidence: Evidence) -> FloatArray:
    found = np.full(len(evidence.removable), np.nan)
    alone = np.flatnonzero((~evidence.drawn.masks).sum(axis=1) == 1)
    # Protected layers are kept everywhere, so that a mask that lacks one layer lacks a player.
    for row in alone:
        found[int(np.argmin(evidence.drawn.masks[row]))] = evidence.baseline - evidence.drawn.scores[row]
    return found

"""Warnings of values that can't be trusted, each with what to do about it.

Shapes: L layers.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from layershap.exceptions import SurrogateQualityWarning, ValueQualityWarning
from layershap.fitting.contributions import Contributions
from layershap.fitting.settings import FitSettings
from layershap.samplers import StratifiedSampler
from layershap.surrogates import BestSurrogate, HammingProcess, PairwiseRidge
from layershap.warning import warn_user

_NEARLY_ALL = 0.9


Doubt: TypeAlias = tuple[str, type[Warning]]
"""Why values or surrogate can't be trusted and what to do about it, and the category of the warning."""


def doubts_of(found: Contributions, settings: FitSettings) -> list[Doubt]:
    """Judge values and surrogate by the masks drawn at random, stratum by stratum.

    Parameters
    ----------
    found : Contributions
        Values and surrogate.
    settings : FitSettings
        What the fit was asked for: parts that are in use already aren't recommended.
    """
    return [*_of_values(found, settings), *_of_surrogate(found, settings)]


def warn_of_quality(doubts: list[Doubt]) -> None:
    """Warn of all that is doubted.

    Warns
    -----
    ValueQualityWarning
        Nearly all masked models beat the whole one; too many layers are such that the model is lost without them; the
        values of veto players aren't known; masks drawn have no finite score; sizes that the values average over were
        not sampled; the errors of the values exceed their differences, or aren't known; or values contradict the
        leave-one-outs.
    SurrogateQualityWarning
        Held-out R2 below 0.5 on all masks drawn, or, where the surrogate alone is believed, below 0 in a stratum. Not
        where all coalitions were evaluated.
    """
    for message, category in doubts:
        warn_user(message, category)


def _of_values(found: Contributions, settings: FitSettings) -> list[Doubt]:
    messages = []
    fit = found.fit
    n_free = int(found.free.sum())
    if found.share_above >= _NEARLY_ALL:
        messages.append(
            f"{found.share_above:.0%} of the masked models score higher than the whole model. Is the utility a loss? "
            "Higher must be better: negate it."
        )
    if found.n_lost > int(found.veto.sum()):
        n_removable = n_free + int(found.veto.sum())
        messages.append(
            f"the model is lost without any one of {found.n_lost} of its {n_removable} removable layers, more than can "
            "be kept in all masks as veto players: the values average over lost models and say little. Look whether "
            "the calibration text is what the model reads well, or let sublayers play (granularity='sublayer')."
        )
    unknown = np.flatnonzero(found.veto & np.isnan(found.values)).tolist()
    if unknown:
        messages.append(
            f"the values of the veto players {unknown} are unknown: too few masks were drawn for masks without each of "
            "them (raise n_masks), or without them the score isn't finite."
        )
    if found.n_unscored:
        messages.append(
            f"{found.n_unscored} of the masks drawn for the values have no finite score and are left out: the values "
            "are of the other coalitions, and biased to that extent. Load the model in bfloat16 or float32, or use a "
            "utility that is finite for lost models (PerplexityRatio, the default, is)."
        )
    if fit.missing:
        lacking = sorted(n_free - size for size in fit.missing)
        messages.append(
            f"the values average over coalitions that lack {lacking} of {n_free} layers{_always_kept(found)}, of which "
            f"no mask was drawn: there they rest on the surrogate alone. Raise n_masks{_other_sampler(settings)}."
        )
    if fit.settings.unbiased and n_free > 2:
        error = float(np.sqrt(np.mean(fit.mask_errors**2)))
        spread = float(np.sqrt(np.maximum(np.var(fit.values) - error**2, 0.0)))
        if np.isnan(error) and not fit.missing:
            messages.append(
                f"too few of the {len(fit.scores)} masks were drawn at random to tell the errors of the values. Raise "
                f"n_masks{_keep_veto(settings)}."
            )
        elif error > spread:
            n_masks = len(fit.scores)
            more = int(n_masks * (2 * error / spread) ** 2) - n_masks if spread > 0 else None
            needed = "to several times as many" if more is None else f"by about {more:,}, for errors half of the spread"
            messages.append(
                f"{n_masks} masks drawn at random don't tell the layers' values apart: their standard error is "
                f"{error:.2g}, their true spread about {spread:.2g}. Raise n_masks {needed}{_keep_veto(settings)}."
            )
    if found.doubtful:
        messages.append(
            f"the values of layers {found.doubtful} have another sign than what these layers add to all others. Either "
            "they are worth the opposite in small coalitions, or the values are off: raise n_masks and see whether it "
            "stays."
        )
    return [(message, ValueQualityWarning) for message in messages]


def _of_surrogate(found: Contributions, settings: FitSettings) -> list[Doubt]:
    quality = found.fit.held_out
    if found.fit.exact:
        return []
    if quality.is_poor:
        what = "what is read from it (interactions, predictions)" if found.fit.settings.unbiased else "its values"
        message = (
            f"the surrogate predicts held-out masks poorly (R2 {quality.r2:.2f} on {len(found.fit.scores)} masks), so "
            f"{what} can't be trusted. Raise n_masks{_other_surrogate(settings)}."
        )
        return [(message, SurrogateQualityWarning)]
    poor = [int(stratum["n_kept"]) for stratum in quality.strata if stratum["n_masks"] > 2 and stratum["r2"] < 0]
    if poor and not found.fit.settings.unbiased:
        message = (
            f"the surrogate predicts held-out masks that keep {poor} layers worse than their mean does, and its values "
            "average over them. Raise n_masks, use another surrogate, or let the values be corrected (unbiased=True)."
        )
        return [(message, SurrogateQualityWarning)]
    return []


def _always_kept(found: Contributions) -> str:
    """Which layers the values' game is without, where it isn't played by all."""
    n_layers, n_veto = len(found.free), int(found.veto.sum())
    n_protected = n_layers - int(found.free.sum()) - n_veto
    if not n_veto + n_protected:
        return ""
    return f" (of the model's {n_layers}, all masks keep the veto players, {n_veto}, and protected ones, {n_protected})"


def _other_sampler(settings: FitSettings) -> str:
    sampler = settings.sampler
    stratified = sampler if isinstance(sampler, StratifiedSampler) else None
    if settings.values.weights == "shapley":
        all_sizes = stratified is not None and isinstance(stratified.strata, str) and stratified.strata == "all"
        return "" if all_sizes else ", or sample all sizes (StratifiedSampler('all'), the default of ShapleyValues)"
    neighbours = stratified is not None and stratified.neighbours
    return "" if neighbours else ", or sample those sizes (StratifiedSampler(neighbours=True), the default)"


def _keep_veto(settings: FitSettings) -> str:
    return "" if settings.values.keep_veto else ", and let veto players be kept in, as is the default (keep_veto=True)"


def _other_surrogate(settings: FitSettings) -> str:
    if isinstance(settings.surrogate, HammingProcess | PairwiseRidge | BestSurrogate):
        return ""
    return ", or use another surrogate (HammingProcess, the default, and PairwiseRidge need far fewer masks than most)"

"""How sure a choice is: it is made again on other calibration text of the same kind, by bootstrap.

Shapes: B resamples, M masks, L layers, N numbers of layers removed, S calibration sequences.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from layershap.exceptions import TiedSelectionWarning
from layershap.fitting.contributions import N_RESAMPLES, Contributions
from layershap.fitting.evidence import Evidence
from layershap.fitting.final_choice import FinalChoice
from layershap.fitting.resampling import resampled_scores
from layershap.fitting.text_game import TextGame
from layershap.protocols import FloatArray, IntArray, SearchingSelector, SelectionEvidence, Selector, Utility
from layershap.selection.validity import select_layers, sets_by_size


def removal_probabilities(
    game: TextGame,
    evidence: Evidence,
    contributions: Contributions,
    selector: Selector,
    rng: np.random.Generator,
) -> FloatArray:
    """How often each layer is in the set removed, over the resamples [N, L]; row n - 1 is for n layers.

    The selector decides again on each resample, among the masks that were evaluated: by their scores there, and by
    the values there where the surrogate gives them. Where text was held back, the final choice is made again: by the
    same rule, on resamples of the text that was searched and of the text that was held back. NaN where nothing could be
    resampled, neither scores nor, for a selector that doesn't search, values; and for a number that the selector can't
    do.
    """
    among, resamples = _made_again(game, evidence, contributions.for_selection(evidence), rng)
    resampled_values_BL = contributions.resampled_values
    counts_NL = np.full((evidence.max_remove, len(evidence.removable)), np.nan)
    # A rule that goes by values alone says the same on every resample if the values can't be had again.
    decides_by_scores = isinstance(selector, SearchingSelector) or len(resampled_values_BL) > 0
    if not resamples or not decides_by_scores:
        return counts_NL
    chosen = sets_by_size(selector, among, evidence.max_remove)
    possible = [n for n, layers in enumerate(chosen, 1) if layers is not None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TiedSelectionWarning)
        counts_NL[[n - 1 for n in possible]] = 0.0
        for b, again in enumerate(resamples):
            if len(resampled_values_BL):
                again = replace(again, contributions=resampled_values_BL[b % len(resampled_values_BL)])
            for n_remove in possible:
                counts_NL[n_remove - 1, select_layers(selector, again, n_remove)] += 1
    return counts_NL / len(resamples)


def _made_again(
    game: TextGame, evidence: Evidence, selection: SelectionEvidence, rng: np.random.Generator
) -> tuple[SelectionEvidence, list[SelectionEvidence]]:
    """What a selector chooses by, and the same on resampled calibration sequences; no model is run.

    Resamples on which a score isn't finite are left out.
    """
    final, utility = evidence.final, game.utility
    if not isinstance(utility, Utility):
        return selection, []
    if final is None:
        statistics = game.statistics(selection.masks, len(game.text.searched))
        resampled_BM = resampled_scores(utility, statistics, N_RESAMPLES, rng)
        return selection, [replace(selection, scores=scores_M) for scores_M in resampled_BM]
    among = replace(selection, masks=final.candidates, scores=utility.score(final.statistics))
    resamples = []
    for _ in range(N_RESAMPLES):
        statistics = final.statistics.resampled(_drawn_apart(final, rng))
        scores_C = utility.score(statistics)
        if np.isfinite(scores_C).all():
            resamples.append(replace(among, scores=scores_C, final_masks=final.made_again(utility, statistics)))
    return among, resamples


def _drawn_apart(final: FinalChoice, rng: np.random.Generator) -> IntArray:
    """Sequences drawn with repetition [S], as many as before of those searched and of those held back."""
    n_held = final.n_sequences
    n_searched = len(final.statistics.counts) - n_held
    return np.concatenate([rng.integers(n_searched, size=n_searched), n_searched + rng.integers(n_held, size=n_held)])

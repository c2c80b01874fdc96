"""How sure a choice is: it is made again on other calibration text of the same kind, by bootstrap.

Shapes: B resamples, M masks, L layers, N numbers of layers removed.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from layershap.exceptions import TiedSelectionWarning
from layershap.fitting.contributions import N_RESAMPLES, Contributions
from layershap.fitting.evidence import Evidence
from layershap.fitting.resampling import resampled_scores
from layershap.fitting.text_game import TextGame
from layershap.protocols import (
    FloatArray,
    SearchingSelector,
    SelectionEvidence,
    Selector,
    SequenceStatistics,
    Utility,
)
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
    the values there where the surrogate gives them. NaN where nothing could be resampled, neither
    scores nor, for a selector that doesn't search, values; and for a number that the selector can't do.
    """
    selection = contributions.for_selection(evidence)
    among, resampled_BM = _resampled_choice(game, evidence, selection, rng)
    resampled_values_BL = contributions.resampled_values
    counts_NL = np.full((evidence.max_remove, len(evidence.removable)), np.nan)
    # A rule that goes by values alone says the same on every resample if the values can't be had again.
    decides_by_scores = isinstance(selector, SearchingSelector) or len(resampled_values_BL) > 0
    if not len(resampled_BM) or not decides_by_scores:
        return counts_NL
    chosen = sets_by_size(selector, among, evidence.max_remove)
    possible = [n for n, layers in enumerate(chosen, 1) if layers is not None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TiedSelectionWarning)
        counts_NL[[n - 1 for n in possible]] = 0.0
        for b, scores_M in enumerate(resampled_BM):
            values = among.contributions
            if len(resampled_values_BL):
                values = resampled_values_BL[b % len(resampled_values_BL)]
            again = replace(among, scores=scores_M, contributions=values)
            for n_remove in possible:
                counts_NL[n_remove - 1, select_layers(selector, again, n_remove)] += 1
    return counts_NL / len(resampled_BM)


def _resampled_choice(
    game: TextGame,
    evidence: Evidence,
    selection: SelectionEvidence,
    rng: np.random.Generator,
) -> tuple[SelectionEvidence, FloatArray]:
    """The sets that a selector chooses among, and their scores on resampled calibration sequences [B, M]."""
    statistics: SequenceStatistics | None = None
    masks, scores = selection.masks, selection.scores
    if evidence.final is not None and isinstance(game.utility, Utility):
        masks, statistics = evidence.final.candidates, evidence.final.statistics
        scores = game.utility.score(statistics)
    elif isinstance(game.utility, Utility):
        statistics = game.statistics(masks, len(game.text.searched))
    among = SelectionEvidence(
        selection.contributions, selection.removable, selection.surrogate, masks, scores, selection.keep_one_of
    )
    return among, resampled_scores(game.utility, statistics, N_RESAMPLES, rng)

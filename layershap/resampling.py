"""Bootstrap over the calibration sequences: what would other text of the same kind have said?

Shapes: B resamples, M masks, L layers, S calibration sequences, N numbers of layers removed.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from layershap.exceptions import TiedSelectionWarning
from layershap.game import LayerGame
from layershap.protocols import FloatArray, MaskArray, SelectionEvidence, Selector, Utility
from layershap.utilities import resample_sequences


def resampled_scores(game: LayerGame, masks_ML: MaskArray, n_resamples: int, rng: np.random.Generator) -> FloatArray:
    """Scores of evaluated masks on resampled calibration sequences [B, M], from the stored statistics of each.

    Nothing is run. B = 0 where there is nothing to resample: a single sequence, or a utility that is called on whole
    models.
    """
    n_sequences = game.calibration.n_sequences
    if not isinstance(game.utility, Utility) or n_sequences < 2:
        return np.empty((0, len(masks_ML)))
    statistics = game.statistics(masks_ML)
    draws = [resample_sequences(game.utility, n_sequences, rng) for _ in range(n_resamples)]
    return np.array([game.utility.score(statistics.resampled(draw)) for draw in draws]).reshape(-1, len(masks_ML))


def removal_probabilities(
    selector: Selector,
    evidence: SelectionEvidence,
    resampled_BM: FloatArray,
    resampled_values_BL: FloatArray,
    max_remove: int,
) -> FloatArray:
    """How often each layer is in the set removed, over the resamples [N, L]; row n - 1 is for n layers.

    The selector decides again on each resample, among the masks that were evaluated: by their scores there, and by
    the values there where the surrogate gives them. NaN where nothing could be resampled.
    """
    n_layers = len(evidence.removable)
    counts_NL = np.zeros((max_remove, n_layers))
    if not len(resampled_BM):
        return np.full((max_remove, n_layers), np.nan)
    for b, scores_M in enumerate(resampled_BM):
        contributions = evidence.contributions.copy()
        if len(resampled_values_BL):
            contributions[evidence.removable] = resampled_values_BL[b]
        again = replace(evidence, scores=scores_M, contributions=contributions, final_masks=None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TiedSelectionWarning)
            for n_remove in range(1, max_remove + 1):
                counts_NL[n_remove - 1, selector.select(again, n_remove)] += 1
    return counts_NL / len(resampled_BM)

"""Bootstrap over the calibration sequences: what would other text of the same kind have said?

Shapes: B resamples, M masks, L layers, S calibration sequences, N numbers of layers removed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from layershap.game import LayerGame
from layershap.protocols import (
    FloatArray,
    MaskArray,
    SequenceStatistics,
    Utility,
)
from layershap.tasks.data import UtilityLike
from layershap.utilities.mixture import bootstrap_scores


def resampled_scores(
    utility: UtilityLike,
    statistics: SequenceStatistics | None,
    n_resamples: int,
    rng: np.random.Generator,
    *,
    n_finite: int | None = None,
) -> FloatArray:
    """Scores of evaluated masks on resampled calibration sequences [B, M], from the stored statistics of each.

    Nothing is run. B = 0 where there is nothing to resample: a single sequence, or a utility that is called on whole
    models. Resamples on which the score of one of the first `n_finite` masks (by default of any) isn't finite are left
    out.
    """
    if statistics is None or not isinstance(utility, Utility) or len(statistics.counts) < 2:
        return np.empty((0, 0))
    scores_BM = bootstrap_scores(utility, statistics, n_resamples, rng).reshape(n_resamples, -1)
    return scores_BM[np.isfinite(scores_BM[:, :n_finite]).all(axis=1)]


def calibration_errors(
    game: LayerGame,
    masks_ML: MaskArray,
    values_of: Callable[[FloatArray], FloatArray],
    *,
    n_resamples: int = 200,
    rng: np.random.Generator,
) -> FloatArray:
    """Standard errors of any values that are computed from the scores of some masks, by the text they were scored on.

    Parameters
    ----------
    game : LayerGame
        Its utility must read statistics of sequences (a `Utility`), and there must be at least two sequences.
    masks_ML : ndarray [M, L]
        Evaluated first, if they were not.
    values_of : callable
        Scores [M] -> values, of any shape: `layershap.shapley.exact_from_table` of all masks, say.
    n_resamples : int, default=200
        Number of resamples B.
    rng : numpy.random.Generator
        Source of randomness for the resamples.

    Raises
    ------
    ValueError
        Nothing to resample.
    """
    game(masks_ML)
    statistics = game.statistics(masks_ML) if isinstance(game.utility, Utility) else None
    resampled_BM = resampled_scores(game.utility, statistics, n_resamples, rng)
    if len(resampled_BM) < 2:
        raise ValueError(
            "a bootstrap needs at least two resamples of at least two calibration sequences and a utility that reads "
            f"their statistics; got {n_resamples} resamples of {game.calibration.n_sequences} sequences, "
            f"{type(game.utility).__name__}"
        )
    return np.array([values_of(scores_M) for scores_M in resampled_BM]).std(axis=0, ddof=1)

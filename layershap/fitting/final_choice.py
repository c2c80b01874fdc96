"""The final choice among a search's best sets, on sequences that the search has not seen.

The best of many sets on a text is partly the luckiest on it. What is left of the luck shows on other text.

Shapes: L layers, N numbers of layers removed, C candidates, S calibration sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layershap.fitting.text_game import TextGame
from layershap.protocols import FloatArray, MaskArray, SequenceStatistics, Utility
from layershap.selection.best import best_of_size, tied_sets, warn_of_tie
from layershap.selection.greedy import evaluated_path
from layershap.utilities.jackknife import jackknife_errors, left_out_scores, paired_differences

_CANDIDATES = 4
"""Sets of each size that are compared, beside greedy's."""

_FOLDS = 4


@dataclass(frozen=True)
class SetComparison:
    """What text held back says of the choice for one number of layers.

    It is judged on sequences that neither the search nor the choice saw: the choice is made again without each quarter
    of them, and what is then chosen is scored on it. So other sets may enter than the one that is chosen on all, and
    the lead over greedy's set may be negative though that set does no worse than greedy's. The errors are those of the
    text; how much the choice itself varies is not in them.

    Attributes
    ----------
    score, score_error : float
        Of the choice.
    over_greedy, over_greedy_error : float
        Score less that of greedy's set on the same sequences, and its standard error; 0 where they are the same.
    over_second, over_second_error : float
        The same against the second best candidate; NaN without one.
    """

    score: float
    score_error: float
    over_greedy: float
    over_greedy_error: float
    over_second: float
    over_second_error: float


@dataclass(frozen=True)
class FinalChoice:
    """What was chosen.

    Attributes
    ----------
    masks : ndarray [N, L]
        Row n - 1: the set of n layers chosen, all True where none was evaluated.
    comparisons : list of SetComparison or None
        For each n; None where no set was evaluated.
    n_sequences : int
        Held back for it.
    candidates : ndarray [C, L]
        All sets compared.
    statistics : SequenceStatistics
        Theirs, on all text, searched and held back, in the model's precision.
    """

    masks: MaskArray
    comparisons: list[SetComparison | None]
    n_sequences: int
    candidates: MaskArray
    statistics: SequenceStatistics

    def made_again(self, utility: Utility, statistics: SequenceStatistics) -> MaskArray:
        """The sets [N, L] that other `statistics` of the candidates would choose, what was held back the last again."""
        n_searched = len(statistics.counts) - self.n_sequences
        removed_C = (~self.candidates).sum(axis=1)
        masks_NL = np.ones_like(self.masks)
        for n_remove in np.unique(removed_C):
            rows = np.flatnonzero(removed_C == n_remove)
            chosen = chosen_among(utility, statistics.of_masks(rows), n_searched)
            masks_NL[n_remove - 1] = self.candidates[rows[chosen]]
        return masks_NL


def final_choice(game: TextGame, masks_ML: MaskArray, scores_M: FloatArray, max_remove: int) -> FinalChoice | None:
    """For each size compare the search's best sets, and greedy's, on the part of the text that was held back.

    A set is chosen if it does best on all text, searched and held back, among those that do no worse than greedy's set
    on the text held back. So most sets that merely fit the searched text lose, and greedy's set, which fits it less,
    stays unless there is a reason.

    Parameters
    ----------
    game : TextGame
        The last part of its text may be held back.
    masks_ML, scores_M : ndarray [M, L], [M]
        Scored on all searched text; sets that the model can lose.
    max_remove : int
        N.

    Returns
    -------
    FinalChoice or None
        None where nothing was held back.
    """
    utility = game.utility
    if game.text.held_back is None or not isinstance(utility, Utility):
        return None
    greedy = {int((~mask).sum()): mask for mask in evaluated_path(masks_ML, scores_M, max_remove)}
    sizes: list[MaskArray] = []
    for n_remove in range(1, max_remove + 1):
        best, _ = best_of_size(masks_ML, scores_M, n_remove, _CANDIDATES)
        known = [greedy[n_remove]] if n_remove in greedy else []
        # Greedy's set first, then the others by their score on the searched text.
        sizes.append(
            np.array([*known, *(mask for mask in best if not any((mask == k).all() for k in known))], dtype=bool)
        )
    if not any(len(candidates) for candidates in sizes):
        return None
    candidates_CL = np.concatenate([candidates for candidates in sizes if len(candidates)])
    statistics = game.statistics(candidates_CL, game.n_parts)
    n_searched = game.text.n_searched
    chosen_NL = np.ones((max_remove, masks_ML.shape[1]), dtype=bool)
    comparisons: list[SetComparison | None] = []
    start = 0
    for n_remove, candidates in enumerate(sizes, start=1):
        if not len(candidates):
            comparisons.append(None)
            continue
        of_size = statistics.of_masks(np.arange(start, start + len(candidates)))
        start += len(candidates)
        chosen = chosen_among(utility, of_size, n_searched)
        chosen_NL[n_remove - 1] = candidates[chosen]
        comparisons.append(_compared(utility, of_size, n_searched))
        _warn_of_tie(candidates, utility.score(of_size), chosen)
    return FinalChoice(chosen_NL, comparisons, len(statistics.counts) - n_searched, candidates_CL, statistics)


def chosen_among(utility: Utility, statistics: SequenceStatistics, n_searched: int) -> int:
    """Index of the candidate chosen; the first is greedy's. One whose score isn't finite is chosen where all are such.

    Parameters
    ----------
    utility : Utility
        What a set is worth.
    statistics : SequenceStatistics
        Of the candidates.
    n_searched : int
        Sequences that the search saw; the others, which follow, were held back.
    """
    held = _finite(utility.score(statistics.resampled(np.arange(n_searched, len(statistics.counts)))))
    return int(np.argmax(np.where(held >= held[0], _finite(utility.score(statistics)), -np.inf)))


def _finite(scores: FloatArray) -> FloatArray:
    return np.where(np.isfinite(scores), scores, -np.inf)


def _compared(utility: Utility, statistics: SequenceStatistics, n_searched: int) -> SetComparison:
    n_sequences = len(statistics.counts)
    held_S = np.arange(n_searched, n_sequences)
    everything = np.arange(n_sequences)
    # Each sequence held back is judged by the sets that are chosen, first and second, without it and its fold.
    winner_S = np.empty(len(held_S), dtype=np.int64)
    second_S = np.empty(len(held_S), dtype=np.int64)
    others = len(next(iter(statistics.sums.values()))) > 1
    for fold in np.array_split(np.arange(len(held_S)), min(_FOLDS, len(held_S))):
        rest = statistics.resampled(np.setdiff1d(everything, held_S[fold]))
        winner_S[fold] = winner = chosen_among(utility, rest, n_searched)
        order = np.argsort(-np.nan_to_num(utility.score(rest), nan=-np.inf), kind="stable")
        second_S[fold] = next((row for row in order if row != winner), winner)
    held = statistics.resampled(held_S)
    columns = np.arange(len(held_S))
    crossed = SequenceStatistics(
        sums={
            name: np.stack([value[0], value[second_S, columns], value[winner_S, columns]])
            for name, value in held.sums.items()
        },
        dense=held.dense,
        counts=held.counts,
    )
    ahead, errors = paired_differences(utility, crossed.of_masks(np.array([0, 1, 2, 2])))
    score = float(utility.score(crossed)[2])
    return SetComparison(
        score,
        float(jackknife_errors(left_out_scores(utility, crossed.of_masks(np.array([2]))))[0]),
        float(ahead[0]),
        float(errors[0]),
        float(ahead[1]) if others else float("nan"),
        float(errors[1]) if others else float("nan"),
    )


def _warn_of_tie(candidates: MaskArray, scores: FloatArray, chosen: int) -> None:
    if np.isclose(scores[chosen], scores.max(), rtol=1e-12, atol=0.0):
        others = [mask for mask in tied_sets(candidates, scores) if (mask != candidates[chosen]).any()]
        warn_of_tie(candidates[chosen], others, float(scores.max()))

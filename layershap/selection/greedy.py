"""Greedy removal: the layer whose removal leaves the best model goes, measured again after each.

Shapes: P players. True = layer kept.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from sklearn.base import BaseEstimator

from layershap.masks import children, is_among, mask_key, mask_keys
from layershap.protocols import EvaluatedGame, FloatArray, Game, IntArray, MaskArray, SelectionEvidence, Surrogate
from layershap.selection.best import (
    best_score,
    finite_or_worst,
    removable_sets,
    select_best,
    tied_sets,
    warn_of_tie,
)
from layershap.selection.bounds import upper_bounds


class Greedy(BaseEstimator):
    """Remove one layer at a time, each time the one whose removal leaves the highest score on the real model.

    Parameters
    ----------
    bounded : bool, default=False
        Whether bounds spare evaluations. A set is taken to score no higher than the sets whose removals it contains,
        plus the largest rise seen so far.

        - False: every candidate of every step is evaluated.
        - True: candidates whose bound is below the best known score are skipped. The path is the same where the bounds
          hold, at about two thirds of the masks.

    See Also
    --------
    SurrogateSearch : Starts from this path and searches on.
    layershap.baselines.SLEB : The published method.

    References
    ----------
    Song et al., SLEB: Streamlining LLMs through Redundancy Verification and Elimination of Transformer Blocks,
    ICML 2024. Its score is the perplexity, which orders sets as `PerplexityRatio` does.
    """

    def __init__(self, *, bounded: bool = False) -> None:
        self.bounded = bounded

    def n_required(self, n_players: int, max_remove: int) -> int:
        """Most masks that `max_remove` steps from `n_players` players need: P + (P - 1) + ... ."""
        return greedy_masks(n_players, max_remove)

    def n_useful(self, n_players: int, max_remove: int) -> int:
        """Equal to ``n_required(n_players, max_remove)``: further masks don't help."""
        return greedy_masks(n_players, max_remove)

    def search(self, game: EvaluatedGame, surrogate: Surrogate, max_remove: int, rng: np.random.Generator) -> None:
        """Follow the path in `game` to `max_remove` removed players; `surrogate` and `rng` aren't used."""
        greedy_path(game, max_remove, bounded=self.bounded)

    def select(self, evidence: SelectionEvidence, n_remove: int) -> IntArray:
        """Choose the layers on the path, followed again over the evaluated masks.

        Where further calibration text made a final choice, the layers are those of the final choice.

        Parameters
        ----------
        evidence : SelectionEvidence
            Evaluated masks and their scores.
        n_remove : int
            Number of layers to remove.

        Returns
        -------
        ndarray [n_remove] of int
            Sorted indices of the layers.

        Warns
        -----
        TiedSelectionWarning
            The last step could as well have removed another layer.
        """
        if evidence.final_masks is not None:
            return select_best(evidence, n_remove)
        rows = evidence.allowed()
        masks, scores = evidence.masks[rows], evidence.scores[rows]
        path = evaluated_path(masks, scores, n_remove)
        if len(path) < n_remove:
            # Under other scores (a bootstrap's) the path may leave what was evaluated.
            return select_best(evidence, n_remove)
        before = path[-2] if n_remove > 1 else np.ones_like(path[-1])
        siblings = ((~masks).sum(axis=1) == n_remove) & ~(masks & ~before).any(axis=1)
        tied = tied_sets(masks[siblings], scores[siblings])
        others = [mask for mask in tied if (mask != path[-1]).any()]
        warn_of_tie(path[-1], others, float(scores[siblings].max()))
        return np.flatnonzero(~path[-1])


def greedy_masks(n_players: int, max_remove: int) -> int:
    """Masks that greedy evaluates for 1 to `max_remove` of P players: the sum of P - n + 1."""
    return sum(n_players - n + 1 for n in range(1, max_remove + 1))


def follow(best_of: Callable[[MaskArray], MaskArray | None], free_P: MaskArray, max_remove: int) -> list[MaskArray]:
    """The best child of the whole set, the best child of that one, ...: sets of 1 to `max_remove` removed players.

    Parameters
    ----------
    best_of : callable
        The best of some candidates [N, P], as a mask [P]; None ends the path.
    free_P : ndarray [P] of bool
        Players that may be removed.
    max_remove : int
        Steps, at most.
    """
    path = [np.ones_like(free_P)]
    for _ in range(max_remove):
        candidates_NP = children(path[-1], free_P)
        best_P = best_of(candidates_NP) if len(candidates_NP) else None
        if best_P is None:
            break
        path.append(best_P)
    return path[1:]


def evaluated_path(masks_ML: MaskArray, scores_M: FloatArray, max_remove: int) -> list[MaskArray]:
    """Greedy's sets of 1 to `max_remove` removed layers as far as their children were evaluated; runs no model.

    Ties go to the lower layer; a score that is not finite counts as not evaluated.
    """
    finite = np.isfinite(scores_M)
    scores = dict(zip(mask_keys(masks_ML[finite]), scores_M[finite], strict=True))

    def best_of(candidates_NL: MaskArray) -> MaskArray | None:
        found = [mask_L for mask_L in candidates_NL if mask_key(mask_L) in scores]
        return max(found, key=lambda mask_L: scores[mask_key(mask_L)]) if found else None

    return follow(best_of, np.ones(masks_ML.shape[1], dtype=bool), max_remove)


def greedy_order(game: Game, removable: MaskArray, n_remove: int) -> IntArray:
    """The layers in the order in which greedy removes them from a game over all layers [n_remove].

    Ties go to the lower layer; a score that is not finite is the worst.
    """

    def best_of(candidates_NL: MaskArray) -> MaskArray:
        return candidates_NL[int(np.argmax(finite_or_worst(np.asarray(game(candidates_NL)))))]

    path = [np.ones_like(removable), *follow(best_of, removable, n_remove)]
    return np.array([np.argmax(before & ~after) for before, after in pairwise(path)], dtype=np.int64)


def greedy_path(game: EvaluatedGame, max_remove: int, *, bounded: bool) -> list[MaskArray]:
    """Greedy's sets of 1 to `max_remove` removed players, each child evaluated unless a bound excludes it.

    Ties go to the lower layer; a score that is not finite is the worst.
    """

    def best_of(candidates_NP: MaskArray) -> MaskArray | None:
        candidates_NP = candidates_NP[game.allowed(candidates_NP)]
        if not len(candidates_NP):
            return None
        return _best_child(game, candidates_NP) if bounded else _best_of(game, candidates_NP)

    return follow(best_of, np.ones(game.n_players, dtype=bool), max_remove)


def _best_of(game: EvaluatedGame, candidates_NP: MaskArray) -> MaskArray:
    game.race(candidates_NP)
    finalists_NP = candidates_NP[is_among(candidates_NP, set(mask_keys(game.masks[game.complete])))]
    return finalists_NP[int(np.argmax(finite_or_worst(game(finalists_NP))))]


def _best_child(game: EvaluatedGame, candidates_NP: MaskArray) -> MaskArray:
    """The best candidate: the most promising quarter is evaluated, then those that the bounds don't exclude."""
    bounds_N = upper_bounds(candidates_NP, *removable_sets(game))
    order = np.argsort(-bounds_N, kind="stable")
    first, rest = np.split(order, [-(-len(order) // 4)])
    game.race(candidates_NP[first])
    best = best_score(*removable_sets(game), int((~candidates_NP[0]).sum()))
    contenders = np.sort(np.concatenate([first, rest[bounds_N[rest] >= best]]))
    return _best_of(game, candidates_NP[contenders])

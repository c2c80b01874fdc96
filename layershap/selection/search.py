"""Search for the best set of each size: a surrogate proposes, the real model decides.

Shapes: P players (removable layers), M evaluated masks, N other masks. True = layer kept.
"""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator

from layershap.protocols import EvaluatedGame, IntArray, MaskArray, SelectionEvidence, Surrogate
from layershap.selection.best import best_evaluated, best_score
from layershap.selection.bounds import largest_rise
from layershap.selection.greedy import greedy_masks, greedy_path
from layershap.selection.neighbourhoods import Predict, best_predicted, children, improved_by_swaps, swaps
from layershap.surrogates.fresh import fresh_surrogate


class SurrogateSearch(BaseEstimator):
    """For every number of layers removed, the best set found by proposals of a surrogate, evaluated on the real model.

    In ``fit``: greedy's path is followed first, which makes the result never worse than greedy on the calibration
    data and teaches the surrogate where it matters; then a few random sets; then rounds. In each round the surrogate
    is fitted to all that was evaluated and, for each n at once, proposes from its own best sets, the one-swap
    neighbours of the best known set and the children of the best known set at n - 1. The best few are evaluated on
    the real model in one fused pass. A size is left when a round around it finds nothing better; the search ends when
    all are, or with the masks it may evaluate.

    Parameters
    ----------
    n_candidates : int, default=3
        Sets evaluated per size and round.
    n_random : int, default=32
        Random sets of layers that the surrogate should have seen before it proposes, the sampler's included.
    width : int, default=32
        Beam width of the search over the surrogate.
    bounded : bool, default=True
        Follow greedy's path with the bounds of `Greedy`. False evaluates each child on the path, so that the result is
        never worse than greedy's on any game, not only where removing a layer seldom raises the score.
    """

    def __init__(self, *, n_candidates: int = 3, n_random: int = 32, width: int = 32, bounded: bool = True) -> None:
        self.n_candidates = n_candidates
        self.n_random = n_random
        self.width = width
        self.bounded = bounded

    def n_required(self, n_players: int, max_remove: int) -> int:
        """Masks that greedy's path may need; what it doesn't need is searched with."""
        return greedy_masks(n_players, max_remove)

    def search(self, game: EvaluatedGame, surrogate: Surrogate, max_remove: int, rng: np.random.Generator) -> None:
        """Evaluate sets of 1 to `max_remove` players on the real model, within ``game.n_left``."""
        seed = int(rng.integers(2**31))
        n_drawn = int(((~game.masks).sum(axis=1) > 1).sum())
        greedy_path(game, max_remove, bounded=self.bounded)
        free_P = ~_hopeless(game, max_remove)
        _evaluate(game, list(_random_sets(free_P, max_remove, self.n_random - n_drawn, rng)))
        active = set(range(1, max_remove + 1))
        while active and game.n_left > 0:
            best_before = {n: best_score(game.masks, game.scores, n) for n in range(1, max_remove + 1)}
            predict = _fitted(surrogate, game, free_P, seed).predict
            predicted = best_predicted(predict, free_P, max(active), self.width)
            proposals = [self._proposals(game, predict, free_P, n, predicted[n]) for n in sorted(active)]
            if not _evaluate(game, _interleaved(proposals)):
                break
            won = {n for n, score in best_before.items() if best_score(game.masks, game.scores, n) > score}
            # A better set at n gives new children at n + 1 and tells of its neighbours at n - 1.
            active = {n for m in won for n in (m - 1, m, m + 1) if 1 <= n <= max_remove}

    def select(self, evidence: SelectionEvidence, n_remove: int) -> IntArray:
        """Sorted indices of the layers of the best evaluated set of this size."""
        best = best_evaluated(evidence.masks, evidence.scores, n_remove)
        if best is None:
            raise ValueError(f"no set of {n_remove} layers was evaluated; fit with max_remove of at least {n_remove}")
        return np.flatnonzero(~best)

    def _proposals(
        self, game: EvaluatedGame, predict: Predict, free_P: MaskArray, n_remove: int, predicted_NP: MaskArray
    ) -> list[MaskArray]:
        """The most promising sets of this size that were not evaluated yet, best first."""
        pool = [predicted_NP]
        best = best_evaluated(game.masks, game.scores, n_remove)
        if best is not None:
            pool += [best[None], swaps(best, free_P)]
        smaller = best_evaluated(game.masks, game.scores, n_remove - 1)
        if smaller is not None:
            pool.append(children(smaller, free_P))
        ranked = improved_by_swaps(predict, np.concatenate(pool), free_P, 2 * self.width)
        known = {mask.tobytes() for mask in game.masks}
        return [mask_P for mask_P in ranked if mask_P.tobytes() not in known][: self.n_candidates]


def _hopeless(game: EvaluatedGame, max_remove: int) -> MaskArray:
    """Players whose removal alone is worse than the best known set of `max_remove` players [P]."""
    alone = ~np.eye(game.n_players, dtype=bool)
    worst = best_score(game.masks, game.scores, max_remove) - largest_rise(game.masks, game.scores)
    hopeless_P = ~(game(alone) >= worst)
    # A game so rough that nothing is left to choose from has no hopeless players.
    return hopeless_P if (~hopeless_P).sum() > max_remove else np.zeros(game.n_players, dtype=bool)


def _random_sets(free_P: MaskArray, max_remove: int, n_masks: int, rng: np.random.Generator) -> MaskArray:
    """Random sets of free players, their sizes spread evenly from 2 to `max_remove` [N, P]."""
    masks_NP = np.ones((max(n_masks, 0), len(free_P)), dtype=bool)
    sizes = np.linspace(min(2, max_remove), max_remove, len(masks_NP)).round().astype(int)
    for mask_P, size in zip(masks_NP, sizes, strict=True):
        mask_P[rng.choice(np.flatnonzero(free_P), size, replace=False)] = False
    return masks_NP


def _fitted(surrogate: Surrogate, game: EvaluatedGame, free_P: MaskArray, seed: int) -> Surrogate:
    """The surrogate fitted to the finite scores of sets without hopeless players: they would rule the fit."""
    rows = np.isfinite(game.scores) & game.masks[:, ~free_P].all(axis=1)
    fresh: Surrogate = fresh_surrogate(surrogate, seed)
    fresh.fit(game.masks[rows], game.scores[rows])
    return fresh


def _interleaved(proposals: list[list[MaskArray]]) -> list[MaskArray]:
    """Every size's first proposal, then every size's second, ...: what a short budget should buy first."""
    longest = max(map(len, proposals), default=0)
    return [masks[rank] for rank in range(longest) for masks in proposals if rank < len(masks)]


def _evaluate(game: EvaluatedGame, masks: list[MaskArray]) -> int:
    """Evaluate as many of these masks as the budget allows; returns their number."""
    affordable = masks[: game.n_left]
    if affordable:
        game(np.array(affordable))
    return len(affordable)

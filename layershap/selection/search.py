"""Search for the best set of each size: a surrogate proposes, the real model decides.

Shapes: P players (removable layers), M evaluated masks, N other masks. True = layer kept.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from layershap.limits import check_int
from layershap.masks import children, is_among, leave_one_out_masks, mask_keys, parents, swaps
from layershap.protocols import EvaluatedGame, IntArray, MaskArray, SelectionEvidence, Surrogate
from layershap.selection.best import best_evaluated, best_score, race_the_best, removable_sets, select_best
from layershap.selection.bounds import largest_rise
from layershap.selection.greedy import greedy_masks, greedy_path
from layershap.selection.neighbourhoods import Predict, best_predicted, top
from layershap.selection.widening import widen
from layershap.surrogates.fresh import fresh_surrogate

_SEARCH_MASKS = 80
"""Masks to propose sets with, beyond those of two paths (docs/benchmarks/selection.md)."""


class SurrogateSearch(BaseEstimator):
    """For every number of layers removed, the best set found by proposals of a surrogate, evaluated on the real model.

    The search runs in ``fit``:

    1. Greedy's path is followed, so that its sets are among those that the final choice compares.
    2. A few random sets are evaluated for the surrogate.
    3. Rounds follow. In each round the surrogate is fitted to all evaluated masks and proposes, for every size n at
       once, the best neighbours of the best known sets and the best sets of all; they are evaluated in one pass. Then
       the children of the best `n_parents` sets of each size are evaluated, as far as the masks suffice for another
       round.

    A size is dropped after `patience` rounds in which neither it nor a neighbouring size gained. The search ends when
    all sizes are dropped or no mask is left.

    Parameters
    ----------
    n_neighbours : int, default=3
        Number of sets evaluated per size and round among the neighbours of the best known sets: one-swap neighbours at
        n, children of the best at n - 1, parents of the best at n + 1.
    n_global : int, default=1
        Number of sets evaluated per size and round among all that the surrogate prefers. It is small because a
        surrogate is surest near evaluated sets.
    n_random : int, default=32
        Number of random sets evaluated before the surrogate proposes; at most a third of the masks that remain after
        greedy's path.
    patience : int, default=2
        Number of rounds without a gain after which a size is dropped.
    width : int, default=32
        Beam width of the search over the surrogate.
    n_parents : int, default=2
        Number of sets of each size whose children are evaluated, unless bounds exclude them
        (`layershap.selection.widening`).
    bounded : bool, default=False
        True follows greedy's path with the bounds of `Greedy`, which spares about a third of its masks. On the trained
        models measured the path is the same; where removing further layers raises the score, the path may differ and
        the result may be worse than greedy's.
    held_back : float, default=0.25
        Share of the calibration sequences that the search does not see. The final choice among its best sets of each
        size, and their scores in the report, come from these sequences. Of fewer than 32 sequences none are held back.

    See Also
    --------
    Greedy : The path that the search starts from.
    Exhaustive : All sets, for small models.
    ShapleyRanking : The paper's rule, which evaluates no set.
    """

    def __init__(
        self,
        *,
        n_neighbours: int = 3,
        n_global: int = 1,
        n_random: int = 32,
        patience: int = 2,
        width: int = 32,
        n_parents: int = 2,
        bounded: bool = False,
        held_back: float = 0.25,
    ) -> None:
        self.n_neighbours = n_neighbours
        self.n_global = n_global
        self.n_random = n_random
        self.patience = patience
        self.width = width
        self.n_parents = n_parents
        self.bounded = bounded
        self.held_back = held_back

    def n_required(self, n_players: int, max_remove: int) -> int:
        """Most masks that greedy's path from `n_players` players to `max_remove` removed ones evaluates.

        The search spends the masks that the path leaves over.

        Raises
        ------
        ValueError
            A parameter of this search isn't an int, or too small; `fit` asks for this number before it evaluates any
            mask.
        """
        self._check_parameters()
        return greedy_masks(n_players, max_remove)

    def n_useful(self, n_players: int, max_remove: int) -> int:
        """Most masks that the search can use: `n_parents` times ``n_required(n_players, max_remove)``, plus 80."""
        self._check_parameters()
        return self.n_parents * greedy_masks(n_players, max_remove) + _SEARCH_MASKS

    def search(self, game: EvaluatedGame, surrogate: Surrogate, max_remove: int, rng: np.random.Generator) -> None:
        """Evaluate sets of 1 to `max_remove` players on the real model.

        Parameters
        ----------
        game : EvaluatedGame
            The game over the removable layers; ``game.n_left`` limits the number of new masks.
        surrogate : Surrogate
            Unfitted; each round fits a clone.
        max_remove : int
            Largest number of removed players.
        rng : numpy.random.Generator
            Source of randomness.
        """
        seed = int(rng.integers(2**31))
        greedy_path(game, max_remove, bounded=self.bounded)
        free_P = ~_hopeless(game, max_remove)
        n_random = min(self.n_random, game.n_left // 3)
        _evaluate(game, list(_random_sets(free_P, max_remove, n_random, rng)), n_random)
        # One size further than asked for: the largest would else have no neighbours on one side (its parents).
        idle = dict.fromkeys(range(1, min(max_remove + 1, game.n_players - 1) + 1), 0)
        while (
            game.n_left > 0
            and _learnable(game, free_P).sum() > 1
            and (active := [n for n, rounds in idle.items() if rounds < self.patience])
        ):
            masks, scores = removable_sets(game)
            best_before = {n: best_score(masks, scores, n) for n in idle}
            predict = _fitted(surrogate, game, free_P, seed).predict
            predicted = best_predicted(predict, free_P, max(active), self.width)
            proposals = [self._proposals(game, predict, free_P, n, predicted[n]) for n in active]
            n_before = len(game.masks)
            # Half of what is left at most: the rest is for the children of the best sets and further rounds.
            _evaluate(game, _interleaved(proposals), max(len(active), game.n_left // 2))
            next_round = len(active) * (self.n_neighbours + self.n_global)
            widen(game, predict, free_P, max_remove, game.n_left - next_round, n_parents=self.n_parents)
            if len(game.masks) == n_before:
                break
            masks, scores = removable_sets(game)
            won = {n for n in idle if best_score(masks, scores, n) > best_before[n]}
            for n in idle:
                # A better set at n gives new children at n + 1 and tells of its neighbours at n - 1.
                idle[n] = 0 if won & {n - 1, n, n + 1} else idle[n] + (n in active)

    def select(self, evidence: SelectionEvidence, n_remove: int) -> IntArray:
        """Sorted indices of the layers of the best evaluated set of `n_remove` layers in `evidence`."""
        return select_best(evidence, n_remove)

    def _check_parameters(self) -> None:
        least = {"n_neighbours": 0, "n_global": 0, "n_random": 0, "patience": 1, "width": 1, "n_parents": 1}
        for name, smallest in least.items():
            check_int(f"SurrogateSearch's {name}", getattr(self, name), smallest)
        share: Any = self.held_back
        if not isinstance(share, Real) or not 0 <= float(share) < 1:
            raise ValueError(f"SurrogateSearch's held_back must lie in [0, 1), got {share!r}")

    def _proposals(
        self, game: EvaluatedGame, predict: Predict, free_P: MaskArray, n_remove: int, predicted_NP: MaskArray
    ) -> list[MaskArray]:
        """Sets of this size that were not evaluated yet: the best neighbours first, then the surrogate's own best."""
        evaluated = removable_sets(game)
        best = [best_evaluated(*evaluated, n) for n in (n_remove - 1, n_remove, n_remove + 1)]
        near = [
            around(mask_P, free_P)
            for around, mask_P in zip((children, swaps, parents), best, strict=True)
            if mask_P is not None
        ]
        known = set(mask_keys(game.masks))
        proposals: list[MaskArray] = []
        for pool, count in ((near, self.n_neighbours), ([*near, predicted_NP], self.n_global)):
            sets_NP = np.concatenate(pool) if pool else predicted_NP
            ranked = top(predict, sets_NP[game.allowed(sets_NP)], len(known) + self.width)
            fresh = ranked[~is_among(ranked, known)][:count]
            known.update(mask_keys(fresh))
            proposals += list(fresh)
        return proposals


def _hopeless(game: EvaluatedGame, max_remove: int) -> MaskArray:
    """Players whose removal alone is worse than the best known set of `max_remove` players [P]."""
    alone = leave_one_out_masks(game.n_players)
    worst = best_score(*removable_sets(game), max_remove) - largest_rise(*removable_sets(game))
    hopeless_P = ~(game.race(alone) >= worst)
    # A game so rough that nothing is left to choose from has no hopeless players.
    return hopeless_P if (~hopeless_P).sum() > max_remove else np.zeros(game.n_players, dtype=bool)


def _random_sets(free_P: MaskArray, max_remove: int, n_masks: int, rng: np.random.Generator) -> MaskArray:
    """Random sets of free players, their sizes spread evenly from 2 to `max_remove` [N, P]."""
    masks_NP = np.ones((max(n_masks, 0), len(free_P)), dtype=bool)
    sizes = np.linspace(min(2, max_remove), max_remove, len(masks_NP)).round().astype(int)
    for mask_P, size in zip(masks_NP, sizes, strict=True):
        mask_P[rng.choice(np.flatnonzero(free_P), size, replace=False)] = False
    return masks_NP


def _learnable(game: EvaluatedGame, free_P: MaskArray) -> MaskArray:
    """Evaluated masks to learn from [M]: finite scores, no hopeless player removed (they would rule the fit)."""
    return np.isfinite(game.scores) & game.masks[:, ~free_P].all(axis=1)


def _fitted(surrogate: Surrogate, game: EvaluatedGame, free_P: MaskArray, seed: int) -> Surrogate:
    rows = _learnable(game, free_P)
    fresh: Surrogate = fresh_surrogate(surrogate, seed)
    fresh.fit(game.masks[rows], game.scores[rows])
    return fresh


def _interleaved(proposals: list[list[MaskArray]]) -> list[MaskArray]:
    """Every size's first proposal, then every size's second, ...: what a short budget should buy first."""
    longest = max(map(len, proposals), default=0)
    return [masks[rank] for rank in range(longest) for masks in proposals if rank < len(masks)]


def _evaluate(game: EvaluatedGame, masks: list[MaskArray], at_most: int) -> int:
    """Evaluate the first of these masks, as many as asked for and as the budget allows; returns their number."""
    affordable = masks[: min(at_most, game.n_left)]
    if affordable:
        race_the_best(game, np.array(affordable), n_best=1)
    return len(affordable)

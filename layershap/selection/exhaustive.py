"""All sets of each size.

Shapes: P players. True = layer kept.
"""

from __future__ import annotations

from math import comb

import numpy as np
from sklearn.base import BaseEstimator

from layershap.limits import check_int
from layershap.masks import subsets
from layershap.protocols import EvaluatedGame, IntArray, MaskArray, SelectionEvidence, Surrogate
from layershap.selection.best import select_best


class Exhaustive(BaseEstimator):
    """Evaluate every set of 1 to `max_remove` layers: the optimum on the calibration data, for small models.

    A model of 12 layers has 2,509 sets of 1 to 6 layers; with shared prefixes they cost about as many layer runs.

    Parameters
    ----------
    max_masks : int, default=70000
        Maximum number of sets; a larger search raises a ValueError (2^16 is 65,536).

    See Also
    --------
    SurrogateSearch : Evaluates a small part of the sets.
    Greedy : Removes one layer at a time.
    """

    def __init__(self, *, max_masks: int = 70_000) -> None:
        self.max_masks = max_masks

    def n_required(self, n_players: int, max_remove: int) -> int:
        """Number of all sets of 1 to `max_remove` out of `n_players` players: the sum of C(P, n).

        Raises
        ------
        ValueError
            More than `max_masks`.
        """
        return count_sets(n_players, max_remove, max_masks=self.max_masks, owner="Exhaustive")

    def n_useful(self, n_players: int, max_remove: int) -> int:
        """Equal to ``n_required(n_players, max_remove)``: further masks don't help."""
        return self.n_required(n_players, max_remove)

    def search(self, game: EvaluatedGame, surrogate: Surrogate, max_remove: int, rng: np.random.Generator) -> None:
        """Evaluate all sets of 1 to `max_remove` players of `game` in one call; `surrogate` and `rng` aren't used."""
        game.race(all_sets(np.ones(game.n_players, dtype=bool), max_remove))

    def select(self, evidence: SelectionEvidence, n_remove: int) -> IntArray:
        """Sorted indices of the layers of the best set of `n_remove` layers in `evidence`."""
        return select_best(evidence, n_remove)


def count_sets(n_players: int, max_remove: int, *, max_masks: int, owner: str) -> int:
    """How many sets of 1 to `max_remove` of P players there are: the sum of C(P, n).

    Raises
    ------
    ValueError
        More than `max_masks`.
    """
    check_int(f"{owner}'s max_masks", max_masks, 1)
    count = sum(comb(n_players, n) for n in range(1, max_remove + 1))
    if count > max_masks:
        raise ValueError(
            f"{count} sets of up to {max_remove} of {n_players} layers exceed {owner}'s max_masks={max_masks}; lower "
            "max_remove, protect layers, or search with LayerPruner(selector=SurrogateSearch())"
        )
    return count


def all_sets(free_P: MaskArray, max_remove: int) -> MaskArray:
    """All sets of 1 to `max_remove` free players, small sets first [N, P]."""
    return np.concatenate([subsets(free_P, n) for n in range(1, max_remove + 1)])

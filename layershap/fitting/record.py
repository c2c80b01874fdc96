"""The game over the removable layers, with a record of what was evaluated and a limit on it.

Shapes: M masks evaluated, N masks asked for, P players (removable layers), L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layershap.game import LayerGame
from layershap.ledger import mask_key
from layershap.protocols import FloatArray, Game, MaskArray


def mean_layer_runs(n_layers: int) -> float:
    """Layer runs that a mask takes on average when prefixes are shared.

    The K sets that lack one of K layers more take (K + 1) / 2 each, so greedy removal takes no more than this.
    """
    return (n_layers + 1) / 2


@dataclass(frozen=True)
class LayerRunLimit:
    """Layer runs that may be spent on a game, what a ledger supplies included."""

    game: LayerGame
    most: float

    @property
    def left(self) -> float:
        """Layer runs that may still be spent."""
        return self.most - self.game.layer_runs_charged

    def first_affordable(self, masks_NL: MaskArray, kept_back: float) -> int:
        """How many of these masks, the first ones, leave `kept_back` layer runs."""
        count, left = len(masks_NL), self.left - kept_back
        while count and (charge := self.game.charge(masks_NL[:count])) > left:
            count = min(count - 1, max(0, int(count * left / charge)))
        return count


class RecordedGame:
    """A game restricted to the removable layers that keeps its masks and scores in the order of evaluation.

    Parameters
    ----------
    game : callable
        Masks [M, L] -> scores [M].
    removable : ndarray [L] of bool
        The players.
    max_masks : int
        Distinct masks that may be evaluated.
    keep_one_of : sequence of sequences of int
        Groups of layers of which one must stay (`layershap.surgery.keep_one_of`).
    limit : LayerRunLimit, optional
        What a budget allows; `n_left` and `affordable` keep within it.
    """

    def __init__(
        self,
        game: Game,
        removable: MaskArray,
        max_masks: int,
        keep_one_of: Sequence[Sequence[int]] = (),
        limit: LayerRunLimit | None = None,
    ) -> None:
        self._game = game
        self._removable = removable
        self._groups = [np.isin(np.arange(len(removable)), group) for group in keep_one_of]
        self._limit = limit
        self.max_masks = max_masks
        self._row: dict[bytes, int] = {}
        self.masks: MaskArray = np.empty((0, self.n_players), dtype=bool)
        self.scores: FloatArray = np.empty(0)

    @property
    def n_players(self) -> int:
        """P."""
        return int(self._removable.sum())

    @property
    def n_left(self) -> int:
        """New masks that may still be evaluated, whatever they share."""
        left = self.max_masks - len(self.masks)
        if self._limit is None:
            return left
        return max(0, min(left, int(self._limit.left // len(self._removable))))

    def affordable(self, masks_NP: MaskArray, n_reserved: int) -> int:
        """How many of these masks, the first ones, can be evaluated so that `n_reserved` others still can.

        The leave-one-outs are among the reserved ones.
        """
        alone = {mask_key(mask) for mask in ~np.eye(self.n_players, dtype=bool)}
        free = self.max_masks - n_reserved - sum(key not in alone for key in self._row)
        fresh: set[bytes] = set()
        count = 0
        for mask in masks_NP:
            key = mask_key(mask)
            fresh |= {key} - alone - self._row.keys()
            if n_reserved and len(fresh) > free:
                break
            count += 1
        if self._limit is not None:
            kept_back = max(0, n_reserved - self.n_players) * mean_layer_runs(len(self._removable))
            count = self._limit.first_affordable(self.widened(masks_NP[:count]), kept_back)
        return count

    def allowed(self, masks_NP: MaskArray) -> MaskArray:
        """Whether the model can lose these sets [N]: it keeps at least one layer, and one of each group."""
        full_NL = self.widened(masks_NP)
        return np.all([full_NL.any(axis=1), *(full_NL[:, group_L].any(axis=1) for group_L in self._groups)], axis=0)

    def __call__(self, masks: MaskArray) -> FloatArray:
        """Scores [N] of masks [N, P].

        Raises
        ------
        ValueError
            More new masks than the limit allows.
        """
        masks_NP = np.asarray(masks)
        if masks_NP.ndim != 2 or masks_NP.shape[1] != self.n_players or masks_NP.dtype != np.bool_:
            raise ValueError(f"masks must be booleans [N, {self.n_players}], got {masks_NP.dtype} {masks_NP.shape}")
        new = {mask_key(mask): mask for mask in masks_NP if mask_key(mask) not in self._row}
        if len(new) > self.max_masks - len(self.masks):
            raise ValueError(
                f"{len(new)} new masks were asked for, after {len(self.masks)} of {self.max_masks}; a selector must "
                "keep within game.n_left"
            )
        if new:
            self._row.update({key: len(self.masks) + i for i, key in enumerate(new)})
            new_NP = np.array(list(new.values()))
            self.masks = np.concatenate([self.masks, new_NP])
            self.scores = np.concatenate([self.scores, np.asarray(self._game(self.widened(new_NP)), dtype=np.float64)])
        return self.scores[[self._row[mask_key(mask)] for mask in masks_NP]]

    def widened(self, masks_NP: MaskArray) -> MaskArray:
        """Masks over all layers [N, L] from masks over the players [N, P]."""
        return widened(masks_NP, self._removable)


def widened(masks_NP: MaskArray, removable: MaskArray) -> MaskArray:
    """Masks over all layers [N, L] from masks over the removable ones [N, P]; the others are kept."""
    full_NL = np.ones((len(masks_NP), len(removable)), dtype=bool)
    full_NL[:, removable] = masks_NP
    return full_NL

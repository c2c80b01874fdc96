"""The game over the removable layers, with a record of what was evaluated and a limit on it.

Shapes: M masks evaluated, N masks asked for, P players (removable layers), L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from layershap.ledger import mask_key
from layershap.protocols import FloatArray, Game, MaskArray


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
    max_layer_runs : float, optional
        Layer runs that may be spent; `n_left` keeps within it, and it needs a game that counts its `layer_runs`.
    """

    def __init__(
        self,
        game: Game,
        removable: MaskArray,
        max_masks: int,
        keep_one_of: Sequence[Sequence[int]] = (),
        max_layer_runs: float | None = None,
    ) -> None:
        self._game = game
        self._removable = removable
        self._groups = [np.isin(np.arange(len(removable)), group) for group in keep_one_of]
        self._max_layer_runs = max_layer_runs
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
        if self._max_layer_runs is None:
            return left
        affordable = (self._max_layer_runs - getattr(self._game, "layer_runs", 0)) // len(self._removable)
        return max(0, min(left, int(affordable)))

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

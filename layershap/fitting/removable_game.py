"""The game over the removable layers: what was evaluated on how much of the text, within a limit on masks.

Shapes: M masks evaluated, N masks asked for, P players (removable layers), L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from layershap.fitting.text_game import TextGame
from layershap.masks import allowed, mask_keys, over_layers
from layershap.protocols import FloatArray, Game, IntArray, MaskArray


class RemovableGame:
    """A game restricted to the removable layers that keeps its masks and scores in the order of evaluation.

    Parameters
    ----------
    game : TextGame or callable
        The game on text in parts, or masks [M, L] -> scores [M].
    removable : ndarray [L] of bool
        The players.
    max_masks : int
        Distinct masks that may be evaluated.
    keep_one_of : sequence of sequences of int
        Groups of layers of which one must stay (`layershap.surgery.keep_one_of`).
    confidence : float, default=1.0
        With which a set must be worse than the best of its size before it is left on a part of the text; 1 leaves none.
    n_parts : int, default=1
        The first parts of the text that count; a plain callable has one.

    Attributes
    ----------
    n_parts_of : ndarray [M] of int
        On how many parts of the text each mask was scored.
    """

    def __init__(
        self,
        game: TextGame | Game,
        removable: MaskArray,
        max_masks: int,
        *,
        keep_one_of: Sequence[Sequence[int]] = (),
        confidence: float = 1.0,
        n_parts: int = 1,
    ) -> None:
        self._game = game
        self._n_parts = n_parts
        self._removable = removable
        self._groups = keep_one_of
        self._confidence = confidence
        self.max_masks = max_masks
        self._row: dict[bytes, int] = {}
        self.masks: MaskArray = np.empty((0, self.n_players), dtype=bool)
        self.scores: FloatArray = np.empty(0)
        self.n_parts_of: IntArray = np.empty(0, dtype=np.int64)

    @property
    def n_players(self) -> int:
        """Number of players P."""
        return int(self._removable.sum())

    @property
    def n_left(self) -> int:
        """New masks that may still be evaluated, on however much of the text."""
        return self.max_masks - len(self.masks)

    @property
    def complete(self) -> MaskArray:
        """Which masks were scored on all of the text [M]: the others are worse than the best of their size."""
        return self.n_parts_of == self._n_parts

    def allowed(self, masks_NP: MaskArray) -> MaskArray:
        """Whether the model can lose these sets [N]: it keeps at least one layer, and one of each group."""
        return allowed(self.widened(masks_NP), self._groups)

    def __call__(self, masks: MaskArray) -> FloatArray:
        """Scores [N] of masks [N, P] on all of the text.

        Raises
        ------
        ValueError
            More new masks than the limit allows.
        """
        rows = self._rows(masks)
        if (self.n_parts_of[rows] < self._n_parts).any():
            self._score(np.unique(rows), self._n_parts)
        return self.scores[rows]

    def race(self, masks: MaskArray, n_best: int = 1) -> FloatArray:
        """Scores [N] of masks [N, P]; the best of each size on all of the text, the others on as much as it takes.

        After each part of the text a mask drops out if it is worse, with the record's confidence, than the `n_best`-th
        best of these masks of its size. Sets already known to be good can be given too: they cost nothing.

        Raises
        ------
        ValueError
            More new masks than the limit allows.

        References
        ----------
        Maron & Moore, Hoeffding races, 1993. Audibert, Bubeck & Munos, Best arm identification in multi-armed bandits,
        2010.
        """
        rows = self._rows(masks)
        if self._n_parts == 1 or self._confidence >= 1:
            return self(masks)
        given = racing = np.unique(rows)
        for n_parts in range(1, self._n_parts + 1):
            racing = racing[self.n_parts_of[racing] < self._n_parts]
            behind = racing[self.n_parts_of[racing] < n_parts]
            if len(behind):
                self._score(behind, n_parts)
            if n_parts < self._n_parts:
                racing = self._still_in(racing, given, n_parts, n_best)
        return self.scores[rows]

    def _still_in(self, racing: IntArray, given: IntArray, n_parts: int, n_best: int) -> IntArray:
        """The racing masks that may yet be among the best of their size."""
        sizes = (~self.masks).sum(axis=1)
        pairs: list[tuple[int, int]] = []
        for size in np.unique(sizes[racing]):
            contest = np.union1d(racing, given[self.complete[given]])
            contest = contest[sizes[contest] == size]
            if len(contest) <= n_best:
                continue
            assert isinstance(self._game, TextGame)
            scores = self._game.scores(self.widened(self.masks[contest]), n_parts)
            order = np.argsort(-np.where(np.isfinite(scores), scores, -np.inf), kind="stable")
            mark = contest[order[n_best - 1]]
            pairs += [(row, mark) for row in contest[order[n_best:]] if row in racing]
        if not pairs:
            return racing
        rows, marks = np.array(pairs).T
        assert isinstance(self._game, TextGame)
        beaten = self._game.beaten(
            self.widened(self.masks[rows]), self.widened(self.masks[marks]), n_parts, self._confidence
        )
        return np.setdiff1d(racing, rows[beaten])

    def _rows(self, masks: MaskArray) -> IntArray:
        """Where these masks are in the record [N]; new ones are entered, not scored yet."""
        masks_NP = np.asarray(masks)
        if masks_NP.ndim != 2 or masks_NP.shape[1] != self.n_players or masks_NP.dtype != np.bool_:
            raise ValueError(f"masks must be booleans [N, {self.n_players}], got {masks_NP.dtype} {masks_NP.shape}")
        keys = mask_keys(masks_NP)
        new = {key: mask for key, mask in zip(keys, masks_NP, strict=True) if key not in self._row}
        if len(new) > self.n_left:
            raise ValueError(
                f"{len(new)} new masks were asked for, after {len(self.masks)} of {self.max_masks}; a selector must "
                "keep within game.n_left"
            )
        if new:
            self._row.update({key: len(self.masks) + i for i, key in enumerate(new)})
            self.masks = np.concatenate([self.masks, np.array(list(new.values()))])
            self.scores = np.concatenate([self.scores, np.full(len(new), np.nan)])
            self.n_parts_of = np.concatenate([self.n_parts_of, np.zeros(len(new), dtype=np.int64)])
        return np.array([self._row[key] for key in keys], dtype=np.int64)

    def _score(self, rows: IntArray, n_parts: int) -> None:
        masks_NL = self.widened(self.masks[rows])
        found = self._game.scores(masks_NL, n_parts) if isinstance(self._game, TextGame) else self._game(masks_NL)
        self.scores[rows] = np.asarray(found, dtype=np.float64)
        self.n_parts_of[rows] = n_parts

    def widened(self, masks_NP: MaskArray) -> MaskArray:
        """Masks over all layers [N, L] from masks over the players [N, P]."""
        return over_layers(masks_NP, self._removable)

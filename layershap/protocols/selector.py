"""What a selector is: which layers to remove, and what it may ask of the real model before.

Shapes: M and N masks, L layers, P players (removable layers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from layershap.masks import allowed
from layershap.protocols.arrays import FloatArray, IntArray, MaskArray
from layershap.protocols.surrogate import Surrogate


@dataclass(frozen=True)
class SelectionEvidence:
    """Results of ``fit`` by which a `Selector` chooses.

    Attributes
    ----------
    contributions : ndarray [L]
        Value of each layer; NaN for protected layers.
    removable : ndarray [L] of bool
        False for protected layers, which a selector never returns.
    surrogate : Surrogate
        Surrogate fitted on the columns of the removable layers.
    masks, scores : ndarray [M, L], [M]
        Coalitions that were scored on all of the text searched, with finite scores.
    keep_one_of : tuple of tuple of int
        Groups of layers of which one must stay, whichever it is.
    final_masks : ndarray [N, L], optional
        Row n - 1: the set of n layers already chosen among the best, on text held back; all True where none was chosen.
    """

    contributions: FloatArray
    removable: MaskArray
    surrogate: Surrogate
    masks: MaskArray
    scores: FloatArray
    keep_one_of: tuple[tuple[int, ...], ...] = ()
    final_masks: MaskArray | None = None

    def allowed(self) -> MaskArray:
        """Whether the model can lose the set that each mask removes [M]."""
        return allowed(self.masks, self.keep_one_of)


@runtime_checkable
class Selector(Protocol):
    """Chooses which layers to remove. It sees no model: ``transform`` needs no calibration data."""

    def select(self, evidence: SelectionEvidence, n_remove: int) -> IntArray:
        """Sorted indices of `n_remove` removable layers, chosen by `evidence`; a ValueError where there is no such set.

        Called when `fit` ends, for every number of layers (with resampled scores too, for the removal probabilities),
        and by ``transform`` and ``removed_layers``, always on the user's own selector.
        """
        ...


class EvaluatedGame(Protocol):
    """The game over the removable layers (players) as a selector sees it in ``fit``: it keeps what it evaluated."""

    @property
    def n_players(self) -> int:
        """The number of players P.

        Read when a search counts what it may remove.
        """
        ...

    @property
    def masks(self) -> MaskArray:
        """The masks evaluated so far, in order, without repetition [M, P].

        Read when a search asks what it knows: nothing at first. Leave-one-outs count, but `fit` has run them already.
        """
        ...

    @property
    def scores(self) -> FloatArray:
        """Scores of `masks` [M], not all of them finite perhaps.

        Read when a search compares sets, or fits its surrogate.
        """
        ...

    @property
    def complete(self) -> MaskArray:
        """Whether each mask was scored on all of the text [M]; others fell behind the best of their size on a part of
        it.

        Read when a search compares sets: only complete ones are comparable, and only these are chosen among.
        """
        ...

    @property
    def n_left(self) -> int:
        """Number of new masks that may still be evaluated.

        Read when a search decides whether, and how widely, to go on.
        """
        ...

    def allowed(self, masks: MaskArray) -> MaskArray:
        """Whether the model can lose the sets that `masks` remove [N] (a hybrid must keep one attention layer, say).

        Called when a search is about to evaluate sets.
        """
        ...

    def __call__(self, masks: MaskArray) -> FloatArray:
        """Scores [N] of `masks` [N, P] on all of the text; masks evaluated before cost nothing.

        Called when a search needs every score. A ValueError where more new masks are asked for than are left.
        """
        ...

    def race(self, masks: MaskArray, n_best: int = 1) -> FloatArray:
        """Scores [N] of `masks` [N, P] where only the best `n_best` of each size matter.

        The other masks are scored on a part of the text.

        Called when a search looks for the best of many sets.
        """
        ...


@runtime_checkable
class HoldsBack(Protocol):
    """A searching selector whose best sets are compared once more, on text that its search has not seen."""

    @property
    def held_back(self) -> float:
        """Share of the calibration sequences that ``fit`` keeps from the search, in [0, 1).

        Read when the text is cut into parts, before anything is run.
        """
        ...


@runtime_checkable
class SearchingSelector(Selector, Protocol):
    """A selector that evaluates sets of its own on the real model, in ``fit``, for all numbers up to `max_remove`.

    The evaluated sets are in the evidence that `select` gets.
    """

    def n_required(self, n_players: int, max_remove: int) -> int:
        """Number of masks that `search` needs for `n_players` and `max_remove`, the leave-one-outs included.

        Called when the masks are shared out, before any is drawn; a smaller ``n_masks`` is refused.
        """
        ...

    def n_useful(self, n_players: int, max_remove: int) -> int:
        """Number of masks that `search` can use for `n_players` and `max_remove`: at least `n_required`.

        Called when the masks are shared out; it is part of the default of ``n_masks``.
        """
        ...

    def search(self, game: EvaluatedGame, surrogate: Surrogate, max_remove: int, rng: np.random.Generator) -> None:
        """Evaluate sets of up to `max_remove` players through `game`, at most ``game.n_left`` new ones.

        The `surrogate` is unfitted and must stay so: clone it. All randomness comes from `rng`.

        Called when the masks for the values are drawn and scored, once in a fit, on the user's own selector.
        """
        ...

"""The four protocols that a user can implement, the array aliases, and the words and shapes of the project.

Any object with the methods qualifies: there is no registry and no base class.

Shapes
------
L layers (players), M masks, S calibration sequences, T tokens in a sequence, D hidden size, V vocabulary,
K kept layers of a mask, n layers removed. Tensors carry their shape as a suffix: ``hidden_BTD``.
A mask is boolean and True means that the layer is KEPT; a coalition is the set of kept layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from layershap.arrays import FloatArray as FloatArray
from layershap.arrays import IntArray as IntArray
from layershap.arrays import MaskArray as MaskArray
from layershap.masks import allowed

Game = Callable[[MaskArray], FloatArray]
"""A cooperative game over layers: masks [M, L] -> scores [M]."""

Weights = Literal["strata", "shapley"]
"""Over which coalition sizes a value averages: the sampled strata (the paper), or all with Shapley's weights."""

Statistic = str
"""What the forward can measure per scored token:

- ``nll``, the negative log-likelihood of the label (nats);
- ``kl``, the KL divergence from the dense model (nats); ``kl_top20``, the same with all but the dense model's 20 most
  probable tokens counted as one (any number of tokens);
- ``hits``, whether the label is the most probable token (0 or 1).
"""


@dataclass(frozen=True)
class SequenceStatistics:
    """Sums of per-token statistics over each calibration sequence, for M masked models.

    Attributes
    ----------
    sums : dict of str to ndarray [M, S]
        One array for each requested statistic.
    dense : dict of str to ndarray [S]
        The same for the model with all its layers.
    counts : ndarray [S]
        Scored tokens in each sequence (padding and ignored labels are not counted).
    sequences : ndarray [S], optional
        Which calibration sequence each column is; None means all of them in order.
    """

    sums: dict[Statistic, FloatArray]
    dense: dict[Statistic, FloatArray]
    counts: FloatArray
    sequences: IntArray | None = None

    def of_masks(self, rows: IntArray) -> SequenceStatistics:
        """Statistics of the masks at `rows` (indices into M)."""
        return SequenceStatistics({name: value[rows] for name, value in self.sums.items()}, self.dense, self.counts)

    def with_sequences(self, more: SequenceStatistics) -> SequenceStatistics:
        """The same masks on more calibration sequences."""
        return SequenceStatistics(
            sums={name: np.concatenate([value, more.sums[name]], axis=1) for name, value in self.sums.items()},
            dense={name: np.concatenate([value, more.dense[name]]) for name, value in self.dense.items()},
            counts=np.concatenate([self.counts, more.counts]),
        )

    def resampled(self, sequences: IntArray) -> SequenceStatistics:
        """The same statistics on other calibration sequences (indices into S, with repetition): for a bootstrap."""
        return SequenceStatistics(
            sums={name: value[:, sequences] for name, value in self.sums.items()},
            dense={name: value[sequences] for name, value in self.dense.items()},
            counts=self.counts[sequences],
            sequences=sequences if self.sequences is None else self.sequences[sequences],
        )


@runtime_checkable
class Utility(Protocol):
    """Turns per-sequence statistics of masked models into one score per mask; higher is better.

    A plain callable ``f(model) -> float`` is accepted wherever a `Utility` is, at the price of the slow path: it is
    called once per mask with the layers skipped.
    """

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The statistics that `score` reads; the forward computes only these."""
        ...

    def score(self, statistics: SequenceStatistics) -> FloatArray:
        """Scores [M] from `statistics` of M masks."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Draws the masks to evaluate. Called once in ``fit``, or once per round if the sampler is adaptive."""

    def sample(self, n_layers: int, n_masks: int, rng: np.random.Generator) -> MaskArray:
        """Draw at most `n_masks` masks over `n_layers` free layers with `rng` [M, n_layers].

        Protected layers are left out.
        """
        ...


@runtime_checkable
class AdaptiveSampler(Sampler, Protocol):
    """A sampler that learns from scores: ``fit`` then asks in rounds and reports back after each."""

    def update(self, masks: MaskArray, scores: FloatArray) -> None:
        """All masks evaluated so far [M, n_layers] and their scores [M]."""
        ...


@runtime_checkable
class Surrogate(Protocol):
    """A regression from masks to scores: any scikit-learn regressor qualifies.

    One that knows its Shapley values in closed form may also offer
    ``shapley_values(strata=None) -> values [L]``.
    """

    def fit(self, masks: MaskArray, scores: FloatArray) -> Any:
        """Fit on masks [M, L] and scores [M]."""
        ...

    def predict(self, masks: MaskArray) -> FloatArray:
        """Predicted scores [M] of `masks` [M, L]."""
        ...


@runtime_checkable
class ClosedFormSurrogate(Surrogate, Protocol):
    """A surrogate that knows its own Shapley values."""

    def shapley_values(self, strata: Sequence[int] | None = None) -> FloatArray:
        """Values [L]: Shapley's if `strata` is None, else marginal contributions averaged over these sizes."""
        ...


@runtime_checkable
class RefittableSurrogate(Surrogate, Protocol):
    """A surrogate that is linear in the scores: refitting it to many resamples of them is cheap."""

    def refitted_values(self, masks: MaskArray, scores: FloatArray, strata: Sequence[int] | None = None) -> FloatArray:
        """Values [B, L] over `strata` for B other score vectors `scores` [B, M] of the same `masks` [M, L]."""
        ...


@dataclass(frozen=True)
class SelectionEvidence:
    """What ``fit`` learned, for a `Selector` to choose by.

    Attributes
    ----------
    contributions : ndarray [L]
        Value of each layer; NaN for protected ones.
    removable : ndarray [L] of bool
        False for protected layers, which a selector never returns.
    surrogate : Surrogate
        Fitted on the columns of the removable layers.
    masks, scores : ndarray [M, L], [M]
        The coalitions that were scored on all of the text searched, with finite scores.
    keep_one_of : tuple of tuple of int
        Groups of layers of which one must stay, whichever it is.
    final_masks : ndarray [N, L], optional
        Row n - 1: the set of n layers already chosen among the best, on text held back; all True without one.
    """

    contributions: FloatArray
    removable: MaskArray
    surrogate: Surrogate
    masks: MaskArray
    scores: FloatArray
    keep_one_of: tuple[tuple[int, ...], ...] = ()
    final_masks: MaskArray | None = None

    def allowed(self) -> MaskArray:
        """Which of the masks are sets that the model can lose [M]."""
        return allowed(self.masks, self.keep_one_of)


@runtime_checkable
class Selector(Protocol):
    """Chooses which layers to remove. It sees no model: ``transform`` needs no calibration data."""

    def select(self, evidence: SelectionEvidence, n_remove: int) -> IntArray:
        """Sorted indices of `n_remove` removable layers, chosen by `evidence`."""
        ...


class EvaluatedGame(Protocol):
    """The game over the removable layers (players) as a selector sees it in ``fit``: it keeps what it evaluated."""

    @property
    def n_players(self) -> int:
        """Number of players P."""
        ...

    @property
    def masks(self) -> MaskArray:
        """The masks evaluated so far, in order, without repetition [M, P]."""
        ...

    @property
    def scores(self) -> FloatArray:
        """Their scores [M], not all of them finite perhaps."""
        ...

    @property
    def complete(self) -> MaskArray:
        """Which of them were scored on all of the text [M]; the others fell behind the best of their size on a part."""
        ...

    @property
    def n_left(self) -> int:
        """New masks that may still be evaluated."""
        ...

    def allowed(self, masks: MaskArray) -> MaskArray:
        """Whether the model can lose the sets that `masks` remove [N] (a hybrid must keep one attention layer, say)."""
        ...

    def __call__(self, masks: MaskArray) -> FloatArray:
        """Scores [N] of masks [N, P] on all of the text; what was evaluated before costs nothing."""
        ...

    def race(self, masks: MaskArray, n_best: int = 1) -> FloatArray:
        """The same where only the best `n_best` of each size matter, among these masks: the others are scored on a
        part of the text.
        """
        ...


@runtime_checkable
class HoldsBack(Protocol):
    """A searching selector whose best sets are compared once more, on text that its search has not seen."""

    @property
    def held_back(self) -> float:
        """Share of the calibration sequences that ``fit`` keeps from the search, in [0, 1)."""
        ...


@runtime_checkable
class UniformSampler(Sampler, Protocol):
    """A sampler whose masks are uniform within each size: values can then be corrected by what a surrogate misses."""

    @property
    def uniform_within_sizes(self) -> bool:
        """Whether each mask of a size is as likely as any other of that size."""
        ...


@runtime_checkable
class SearchingSelector(Selector, Protocol):
    """A selector that evaluates sets of its own on the real model, in ``fit``, for all numbers up to `max_remove`.

    What it evaluates is in the evidence that `select` gets.
    """

    def n_required(self, n_players: int, max_remove: int) -> int:
        """Number of masks that `search` needs for `n_players` and `max_remove`, the leave-one-outs included."""
        ...

    def n_useful(self, n_players: int, max_remove: int) -> int:
        """Number of masks that `search` has a use for with `n_players` and `max_remove`: at least `n_required`."""
        ...

    def search(self, game: EvaluatedGame, surrogate: Surrogate, max_remove: int, rng: np.random.Generator) -> None:
        """Evaluate sets of up to `max_remove` players through `game`, at most ``game.n_left`` new ones.

        The `surrogate` is unfitted and must stay so: clone it. All randomness comes from `rng`.
        """
        ...

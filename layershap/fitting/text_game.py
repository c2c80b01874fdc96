"""The game on calibration text in parts: a mask can be scored on the first few parts only, and two masks be compared
there.

Shapes: M masks, L layers, S calibration sequences.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType

import numpy as np
from scipy.stats import t as student

from layershap.fitting.text import TextParts
from layershap.game import LayerGame
from layershap.game.players import GameModel
from layershap.game.progress import Progress
from layershap.model.upcast import in_float32
from layershap.protocols import FloatArray, MaskArray, SequenceStatistics, Utility
from layershap.ranks.together import Ranks
from layershap.tasks.data import UtilityLike
from layershap.utilities.checks import checked_scores
from layershap.utilities.jackknife import paired_differences


class TextGame:
    """A `LayerGame` for each part of the calibration text, opened when it is first needed.

    Parameters
    ----------
    first : LayerGame
        On the first part of the text: it knows the model's players. Closed with this game.
    text : TextParts
        Masks are scored on its parts in their order.
    ledger : path, optional
        The first part's; further parts have files of their own beside it.

    Attributes
    ----------
    progress : Progress
        One bar for all parts.
    """

    def __init__(self, first: LayerGame, text: TextParts, ledger: str | os.PathLike[str] | None = None) -> None:
        self.first = first
        self.text = text
        self.progress = first.progress
        self._ledger = ledger
        self._games = [first]

    def __enter__(self) -> TextGame:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for game in self._games:
            game.close()

    @property
    def n_players(self) -> int:
        """Number of players L."""
        return self.first.n_players

    @property
    def n_parts(self) -> int:
        """Parts of the text."""
        return len(self.text.parts)

    @property
    def found(self) -> GameModel:
        """The model with its players."""
        return self.first.found

    @property
    def utility(self) -> UtilityLike:
        """What a masked model is worth."""
        return self.first.utility

    @property
    def keep_one_of(self) -> tuple[tuple[int, ...], ...]:
        """Groups of players of which one must stay."""
        return self.first.keep_one_of

    @property
    def n_evaluated(self) -> int:
        """Distinct masks run on the first part of the text by this process."""
        return self.first.n_evaluated

    def n_sequences(self, n_parts: int) -> int:
        """Sequences of the first parts."""
        return sum(part.n_sequences for part in self.text.parts[:n_parts])

    @property
    def layer_run_tokens(self) -> int:
        """Layer runs x tokens spent on all parts, what a ledger supplied included."""
        return sum(game.layer_runs_in_all * game.calibration.ids_ST.numel() for game in self._games)

    @property
    def layer_runs(self) -> float:
        """Layer runs of this process, as if each were on the whole text."""
        tokens = sum(part.ids_ST.numel() for part in self.text.parts)
        return sum(game.layer_runs * game.calibration.ids_ST.numel() for game in self._games) / tokens

    def scores(self, masks_ML: MaskArray, n_parts: int) -> FloatArray:
        """Scores [M] on the first parts of the text; evaluates what is missing."""
        utility = self.utility
        if not isinstance(utility, Utility):
            return self.first(masks_ML)
        return checked_scores(utility.score(self.statistics(masks_ML, n_parts)), len(masks_ML), utility)

    def statistics(self, masks_ML: MaskArray, n_parts: int, *, start: int = 0) -> SequenceStatistics:
        """Per-sequence statistics on some parts of the text; evaluates what is missing."""
        found = self.part(start).statistics(masks_ML)
        for index in range(start + 1, n_parts):
            found = found.with_sequences(self.part(index).statistics(masks_ML))
        return found

    def beaten(self, masks_ML: MaskArray, best_ML: MaskArray, n_parts: int, confidence: float) -> MaskArray:
        """Which masks score lower than the masks that they are compared with, with this confidence [M].

        A one-sided t-test of the paired difference, its standard error by jackknife over the sequences of the first
        parts. A score that isn't finite is beaten by one that is.
        """
        utility = self.utility
        n_sequences = self.n_sequences(n_parts)
        if not isinstance(utility, Utility) or n_sequences < 2:
            return np.zeros(len(masks_ML), dtype=bool)
        statistics = self.statistics(np.concatenate([masks_ML, best_ML]), n_parts)
        ahead, error = paired_differences(utility, statistics)
        threshold = float(student.ppf(confidence, n_sequences - 1))
        with np.errstate(invalid="ignore"):
            # Without any spread, as counts of hits on a few sequences may have, nothing is known of the rest.
            beaten = (ahead > threshold * error) & (error > 0)
        return np.where(np.isfinite(ahead), beaten, ahead == np.inf)

    @contextmanager
    def in_float32(self, n_first: int) -> Iterator[TextGame]:
        """The game of the same model in float32, one layer's weights at a time, for the time of the context.

        Its first part holds `n_first` sequences at most, for which this game's may be cut; their order is the same. Its
        ledgers lie beside this game's.
        """
        text = self.text.beginning_with(n_first).in_float32()
        # Named after the text too, as those of the parts are: what is left of a fit on other text is not in the way.
        beside = f"float32.{text.parts[0].digest[:8]}"
        ledger = None if self._ledger is None else f"{os.fspath(self._ledger)}.{beside}"
        found = self.found.in_precision("torch.float32")
        with ExitStack() as held:
            # Where several ranks evaluate together, each knows whether the weights found room on all of them.
            widened = in_float32(found.model, found.players.layers)
            Ranks.of(found.model).together(lambda: held.enter_context(widened))
            wide = TextGame(self.first.on(text.parts[0], ledger=ledger, found=found), text, ledger)
            yield held.enter_context(wide)

    def part(self, index: int) -> LayerGame:
        """The game on one part of the text, opened if need be."""
        while len(self._games) <= index:
            part = self.text.parts[len(self._games)]
            ledger = None if self._ledger is None else f"{os.fspath(self._ledger)}.{part.digest[:8]}"
            game = self.first.on(part, ledger=ledger)
            game.progress = _Share(self.progress)
            self._games.append(game)
        return self._games[index]


class _Share(Progress):
    """The bar of the first part, for work on further parts of masks that it has counted already."""

    def __init__(self, whole: Progress) -> None:
        super().__init__(shown=False)
        self._whole = whole

    def plan(self, n_masks: int, work: float) -> None:
        """Add work, no masks."""
        self._whole.plan(0, work)

    def update(self, work: float) -> None:
        """Add work that is done."""
        self._whole.update(work)

    def close(self) -> None:
        """The bar is the first part's to close."""

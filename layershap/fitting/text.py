"""The calibration sequences in parts: what a search looks at first, what it looks at later, what it never sees.

Shapes: S calibration sequences.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from layershap.calibration import Calibration
from layershap.model.upcast import NARROW
from layershap.protocols import IntArray

_FIRST = 4
"""Sequences of the first part: few, as most sets of layers are out after them; enough for a t-test."""

_FOR_VALUES = 16
"""Sequences, at least, that values are estimated on where a search races its sets on parts of the text."""

_LEAST_TO_SPLIT = 32
"""Sequences from which on some are held back for the final choice: half a dozen would choose by chance."""


@dataclass(frozen=True)
class TextParts:
    """Calibration sequences in parts.

    Attributes
    ----------
    given : Calibration
        All sequences.
    searched : tuple of Calibration
        Each part but the first and the last as long as all before it together. A single part where nothing is raced.
    held_back : Calibration or None
        Sequences for the final choice, which no search has seen.
    """

    given: Calibration
    searched: tuple[Calibration, ...]
    held_back: Calibration | None

    @property
    def parts(self) -> tuple[Calibration, ...]:
        """All parts, what is held back last."""
        return self.searched if self.held_back is None else (*self.searched, self.held_back)

    @property
    def n_value_parts(self) -> int:
        """How many parts of the text values are estimated on: the first ones."""
        total = 0
        for count, part in enumerate(self.searched, start=1):
            total += part.n_sequences
            if total >= _FOR_VALUES:
                return count
        return len(self.searched)

    @property
    def n_searched(self) -> int:
        """Sequences that a search looks at."""
        return sum(part.n_sequences for part in self.searched)

    def beginning_with(self, n_sequences: int) -> TextParts:
        """The same sequences in the same order, of which the first part holds `n_sequences` at most."""
        first, *others = self.searched
        if first.n_sequences <= n_sequences:
            return self
        rows = torch.arange(first.n_sequences)
        head, tail = first.take(rows[:n_sequences]), first.take(rows[n_sequences:])
        return replace(self, searched=(head, tail, *others))

    def in_float32(self) -> TextParts:
        """The same text; images and sound in half precision are float32, as a model in float32 reads them."""
        held_back = None if self.held_back is None else _widened(self.held_back)
        return TextParts(_widened(self.given), tuple(map(_widened, self.searched)), held_back)


def split_text(calibration: Calibration, *, races: bool, held_back: float = 0.0) -> TextParts:
    """Cut calibration sequences into parts.

    The draw is the same for every `random_state`, so that a ledger serves them all. Sequences at even distances would
    be of one kind where kinds alternate (prompt and answer, two sources in turn).

    Parameters
    ----------
    calibration : Calibration
        All sequences.
    races : bool
        Sets are dropped on a part of the text. False leaves all that is searched in one part.
    held_back : float, default=0.0
        Share of the sequences for the final choice. None are held back of fewer than 32, nor is a single one: a choice
        by one sequence is chance, and has no error.
    """
    order = np.random.default_rng(0).permutation(calibration.n_sequences)
    # A sequence without a scored token says nothing, and would count as one that does.
    order = order[calibration.counts_S.numpy()[order] > 0]
    n_held = int(held_back * len(order))
    if len(order) < _LEAST_TO_SPLIT or n_held < 2:
        n_held = 0
    if not races and not n_held:
        return TextParts(calibration, (calibration,), None)
    searched, held = np.split(order, [len(order) - n_held])
    cuts: list[int] = []
    cut = _FIRST
    while races and 3 * cut <= 2 * len(searched):  # the last part is at least half as long as all before it together
        cuts.append(cut)
        cut *= 2
    parts = tuple(_part(calibration, rows) for rows in np.split(searched, cuts) if len(rows))
    return TextParts(calibration, parts, _part(calibration, held) if n_held else None)


def _widened(part: Calibration) -> Calibration:
    wide = {name: value.float() for name, value in part.inputs.items() if value.dtype in NARROW}
    return replace(part, inputs={**part.inputs, **wide}) if wide else part


def _part(calibration: Calibration, rows: IntArray) -> Calibration:
    provenance = {**calibration.provenance, "sequences_given": calibration.n_sequences}
    return replace(calibration.take(torch.from_numpy(np.sort(rows))), provenance=provenance)

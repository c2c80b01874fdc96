"""The gaps that removed layers leave.

Shapes: L layers of the model before the removal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Scope = Literal["gaps", "all"]
"""Which layers a `layershap.LinearRefit` refits: those before gaps, or all from the first of these on."""


@dataclass(frozen=True)
class Gap:
    """A run of neighbouring layers that were removed.

    Attributes
    ----------
    first, stop : int
        The removed layers are ``first, ..., stop - 1``, in the numbering before the removal.
    before : int
        The kept layer before the gap, in the numbering after the removal; -1 if none is left there.
    """

    first: int
    stop: int
    before: int

    @property
    def layers(self) -> tuple[int, ...]:
        """The removed layers, in the numbering before the removal."""
        return tuple(range(self.first, self.stop))


def gaps_of(removed: Sequence[int], n_layers: int) -> tuple[Gap, ...]:
    """The gaps of a removal from `n_layers` layers, front to back."""
    gone = set(removed)
    found: list[Gap] = []
    kept = 0
    for layer in range(n_layers):
        if layer not in gone:
            kept += 1
        elif layer - 1 in gone:
            found[-1] = Gap(found[-1].first, layer + 1, found[-1].before)
        else:
            found.append(Gap(layer, layer + 1, kept - 1))
    return tuple(found)


def checked_scope(scope: Scope) -> Scope:
    """Which layers are refitted, if it is one of the two ways."""
    if scope not in ("gaps", "all"):
        raise ValueError(f"scope must be 'gaps' or 'all', got {scope!r}")
    return scope


def refitted(gaps: Sequence[Gap], n_kept: int, scope: Scope) -> list[int]:
    """The kept layers that are refitted, in the numbering after the removal."""
    if not gaps:
        return []
    if scope == "gaps":
        return [gap.before for gap in gaps if gap.before >= 0]
    return list(range(max(gaps[0].before, 0), n_kept))

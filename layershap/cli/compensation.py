"""Compensations by the names that options have for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layershap.compensation import Compensation

COMPENSATIONS = {"rescale": "Rescale", "linear-refit": "LinearRefit"}
"""Option -> class of `layershap.compensation`."""


def compensation(name: str) -> Compensation:
    """The compensation that an option names."""
    from layershap import compensation as room

    made: Compensation = getattr(room, COMPENSATIONS[name])()
    return made

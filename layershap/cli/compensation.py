"""Compensations by the names that options have for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layershap.compensation import Compensation

COMPENSATIONS = ("linear-refit", "linear-refit-all", "rescale")
"""Names of `layershap.compensation`'s, with every kept layer refitted as one of its own."""


def compensation(name: str) -> Compensation:
    """The compensation that an option names."""
    from layershap.compensation import LinearRefit, Rescale

    return Rescale() if name == "rescale" else LinearRefit("all" if name == "linear-refit-all" else "gaps")

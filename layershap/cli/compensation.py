"""Compensations by the names that options have for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layershap.compensation import Compensation

COMPENSATIONS = ("linear-refit", "linear-refit-all", "replace-me", "rescale")
"""Names of `layershap.compensation`'s, with every kept layer refitted as one of its own."""


def compensation(name: str) -> Compensation:
    """The compensation that an option names."""
    from layershap.compensation import LinearRefit, ReplaceMe, Rescale

    named: dict[str, Compensation] = {
        "linear-refit": LinearRefit(),
        "linear-refit-all": LinearRefit("all"),
        "replace-me": ReplaceMe(),
        "rescale": Rescale(),
    }
    return named[name]

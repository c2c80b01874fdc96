"""What a score is called."""

from __future__ import annotations


def score_name(utility: object) -> str:
    """The utility as Python would construct it, a function by its name."""
    return str(getattr(utility, "__qualname__", repr(utility).removesuffix("()")))

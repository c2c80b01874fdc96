"""Types of the options, and what is wrong usage though the parser can't see it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


class UsageError(ValueError):
    """Options that don't go together, or a value that no machine would take: exit code 2."""


def path(text: str) -> Path:
    """A path; an empty one, as an unset shell variable gives, would be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("a path must not be empty (an unset variable?)")
    return Path(text).expanduser()


def at_least(minimum: int) -> Callable[[str], int]:
    """The type of an int with a lower bound."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be an integer, got {text!r}") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {value}")
        return value

    return read


def count_or_fraction(text: str) -> int | float:
    """The type of a number of layers, or of a fraction of them."""
    if text.strip().isdecimal():
        return at_least(1)(text)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < 1:
        # A number with a point is no count: 2.0 might be meant for 0.2.
        raise argparse.ArgumentTypeError(f"must be an int of at least 1, or a fraction in (0, 1), got {text!r}")
    return value


def add_overwrite_option(parser: argparse._ActionsContainer, what: str) -> None:
    """``--overwrite``, of every command that writes."""
    parser.add_argument("--overwrite", action="store_true", help=what)

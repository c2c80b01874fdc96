"""Types of the options, and what is wrong usage though the parser can't see it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


class UsageError(ValueError):
    """Options that don't go together, or a value that no machine would take: exit code 2."""


class CommandParser(argparse.ArgumentParser):
    """A parser whose options are given once: argparse would take the last value and drop the others unsaid."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        # Groups share the registry, so that this holds for every option that has no action of its own.
        self.register("action", None, _StoreOnce)
        self.register("action", "store", _StoreOnce)


class _StoreOnce(argparse.Action):
    """Stores the value, or values, of an option; `advice` ends the message when it is given a second time."""

    def __init__(self, *arguments: Any, advice: str | None = None, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        several = "name all values after one" if self.nargs == "+" else "give one"
        self.advice = several if advice is None else advice

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        # Kept in the namespace, which is new for each command line; a parser may read several.
        given: set[str] = vars(namespace).setdefault("_given", set())
        if self.dest in given:
            raise argparse.ArgumentError(self, f"given twice: {self.advice}")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def in_options(message: str, parsers: Iterable[argparse.ArgumentParser]) -> str:
    """A message of the library, with the options in place of the parameters that they stand for.

    An option has its parameter's name, as ``n_masks`` and ``--n-masks``. Names of one word are replaced only where a
    value follows (``layers='h'``): elsewhere they are words.
    """
    for action in (action for parser in parsers for action in parser._actions if action.option_strings):
        name, option = action.dest, action.option_strings[-1]
        message = re.sub(rf"(?<![\w./'\"-]){name}=(?=[\w'\"\[(.-])", f"{option} ", message)
        if "_" in name:
            message = re.sub(rf"(?<![\w./'\"-]){name}(?![\w/(=-]|\.\w)", option, message)
    return message


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

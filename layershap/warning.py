"""Warnings that point to the user's line, however deep in the package they arise."""

from __future__ import annotations

import sys
import warnings

_NOT_THE_USER = frozenset({"layershap", "sklearn", "joblib", "contextlib", "functools", "torch"})
"""Top-level packages whose frames stand between a user's line and a warning: this one, a pipeline's, decorators'."""


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning at the innermost line that is the user's own.

    That is the line that called into this package, directly or through a scikit-learn pipeline; or a line of a
    callable that this package calls, where that calls back. `warnings.warn` has ``skip_file_prefixes`` for this from
    Python 3.12 on only.

    Parameters
    ----------
    message : str
        What is wrong, and what to do about it.
    category : type of Warning, default=UserWarning
        What a caller may filter by.
    """
    warnings.warn(message, category, stacklevel=_user_level())


def _user_level() -> int:
    """The ``stacklevel`` of the user's line for `warn_user`; the outermost line where all of them are a package's."""
    frame = sys._getframe(1)
    level = 1
    while frame.f_back is not None and _top_package(frame.f_globals) in _NOT_THE_USER:
        frame = frame.f_back
        level += 1
    return level


def _top_package(names: dict[str, object]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]

"""Optional dependencies: imported where they are needed, and named with their pip command where they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from layershap.exceptions import MissingExtraError


def require(module: str, requirement: str, purpose: str) -> Any:
    """Import an optional dependency.

    Parameters
    ----------
    module : str
        What to import, "matplotlib.pyplot" say.
    requirement : str
        What pip is to install, "layershap[plot]" say.
    purpose : str
        What needs it: the subject of the error's sentence.

    Raises
    ------
    MissingExtraError
        It is not installed; the message holds the pip command.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # The package is there; something that it needs itself is not.
        raise MissingExtraError(
            f"{purpose} needs {package}, which is not installed: pip install '{requirement}'"
        ) from error

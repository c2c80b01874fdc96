"""How many sequences are little: one rule for all that makes them of a user's data."""

from __future__ import annotations

from typing import Literal

from layershap.exceptions import CalibrationWarning
from layershap.warning import warn_user

LITTLE = 32
"""Sequences below which a choice is a matter of luck, and nothing is held back for the final choice."""


def warn_of_little(count: int, n_sequences: int | Literal["auto"] | None, found: str, more: str) -> None:
    """Warn of fewer than 32 sequences, unless their number was chosen.

    Parameters
    ----------
    count : int
        Number of sequences that the data made.
    n_sequences : int, 'auto' or None
        The number asked for. An int, or None for all, says that it is meant.
    found : str
        What there is, for the message: "there are only 12 chats with answers".
    more : str
        What to give more of: "chats".

    Warns
    -----
    CalibrationWarning
        'auto' came to fewer than 32.
    """
    if n_sequences == "auto" and count < LITTLE:
        warn_user(
            f"{found}; a set of layers that does best on so little is partly the luckiest on it: on a 30-layer model, "
            "sets chosen on 10 sequences had up to 7% more perplexity on other text than those chosen on 128, those of "
            f"static scores up to 20%. Give more {more}, or n_sequences to say that this is meant.",
            CalibrationWarning,
        )

"""What a game's scores depend on: under what a ledger keeps them."""

from __future__ import annotations

from typing import Any

from layershap.calibration import Calibration
from layershap.exceptions import LedgerError
from layershap.fingerprint import behaviour, fingerprint
from layershap.fingerprint.describe import IndescribableError, digest_of
from layershap.game.players import GameModel
from layershap.protocols import Utility
from layershap.tasks.data import UtilityLike


def game_fingerprint(
    found: GameModel, calibration: Calibration, utility: UtilityLike, batch_tokens: int
) -> dict[str, Any]:
    """Everything that a score depends on, as plain JSON values.

    Raises
    ------
    LedgerError
        A utility that is a plain callable holds something that can't be described.
    """
    logits = behaviour(found.model, found.players, calibration, found.unremovable)
    statistics = utility.statistics if isinstance(utility, Utility) else ()
    fields = fingerprint(found.fingerprint, calibration, statistics or ("score",), batch_tokens, logits)
    if not isinstance(utility, Utility):
        name = getattr(utility, "__qualname__", type(utility).__qualname__)
        try:
            fields["utility"] = f"{name} {digest_of(utility, 'the utility')}"
        except IndescribableError as error:
            raise LedgerError(
                f"a ledger must know the utility {name} again, and can't: {error}. Let it hold plain values "
                "(numbers, texts, tensors), or fit without ledger"
            ) from error
    return fields

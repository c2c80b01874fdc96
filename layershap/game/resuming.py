"""What a game's scores depend on, and the ledger that keeps them under it."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from layershap.calibration import Calibration
from layershap.exceptions import LedgerError
from layershap.fingerprint import behaviour, fingerprint
from layershap.fingerprint.describe import IndescribableError, digest_of
from layershap.forward.settings import EngineSettings
from layershap.game.players import GameModel
from layershap.ledger import Ledger, RowShape
from layershap.protocols import Utility
from layershap.tasks.data import UtilityLike
from layershap.warning import warn_user


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


def open_ledger(
    path: str | os.PathLike[str],
    fields: dict[str, Any],
    shape: RowShape,
    settings: EngineSettings,
    *,
    pinned: bool,
) -> tuple[Ledger, EngineSettings]:
    """A ledger for these fields of a fingerprint, and the settings to go on with.

    If `pinned`, these have the ledger's memory budget, on which the last bits of further scores depend.
    """
    ledger = Ledger(path, fields, shape, {"memory_budget": settings.memory_budget})
    budget = ledger.settings.get("memory_budget")
    if budget == settings.memory_budget:
        return ledger, settings
    if pinned and isinstance(budget, int) and 0 < budget <= 2 * settings.memory_budget:
        return ledger, replace(settings, memory_budget=budget)
    warn_user(
        f"the ledger {ledger.path} was written with a memory budget of {budget} bytes, here it is "
        f"{settings.memory_budget}: further scores may differ from those of an uninterrupted run in their last bits"
    )
    return ledger, settings

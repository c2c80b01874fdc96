"""The ledger: an append-only file of evaluated masks, so that work already paid for is never lost."""

from layershap.ledger.file import Ledger
from layershap.ledger.lines import MaskRow, RowShape

__all__ = ["Ledger", "MaskRow", "RowShape"]

"""The ledger: an append-only file of evaluated masks, so that work already paid for is never lost."""

from layershap.ledger.file import Ledger
from layershap.ledger.lines import MaskRow, RowShape
from layershap.ledger.of_ranks import LedgerOfRanks
from layershap.ledger.recorded import RecordedMasks, merge_ledgers, read_ledger

__all__ = ["Ledger", "LedgerOfRanks", "MaskRow", "RecordedMasks", "RowShape", "merge_ledgers", "read_ledger"]

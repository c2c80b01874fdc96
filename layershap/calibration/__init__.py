"""Calibration data: texts, datasets, batches or token tensors -> blocks of tokens [S, T]."""

from layershap.calibration.answers import own_answers
from layershap.calibration.batches import IGNORE
from layershap.calibration.blocks import BosPolicy, Calibration
from layershap.calibration.chats import chat_answers
from layershap.calibration.convert import as_calibration
from layershap.calibration.mixed import mixed_texts
from layershap.calibration.perplexity_protocol import PERPLEXITY_PROTOCOLS, PerplexityProtocol, resolve_protocol
from layershap.calibration.targets import from_targets

__all__ = [
    "IGNORE",
    "PERPLEXITY_PROTOCOLS",
    "BosPolicy",
    "Calibration",
    "PerplexityProtocol",
    "as_calibration",
    "chat_answers",
    "from_targets",
    "mixed_texts",
    "own_answers",
    "resolve_protocol",
]

"""Calibration data: texts, datasets, batches or token tensors -> blocks of tokens [S, T]."""

from layershap.calibration.batches import IGNORE
from layershap.calibration.blocks import BosPolicy, Calibration
from layershap.calibration.convert import as_calibration
from layershap.calibration.mixed import mixed_texts

__all__ = ["IGNORE", "BosPolicy", "Calibration", "as_calibration", "mixed_texts"]

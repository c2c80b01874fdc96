"""The bundled model and texts, in the style of `sklearn.datasets`. Nothing here needs a network."""

from layershap.datasets._bundled import load_calibration_text, load_evaluation_text, load_tiny_gpt2
from layershap.datasets._random import tiny_random

__all__ = ["load_calibration_text", "load_evaluation_text", "load_tiny_gpt2", "tiny_random"]

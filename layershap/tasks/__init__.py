"""Tasks: rows of questions -> calibration sequences and the utility that scores them, bound together."""

from layershap.tasks.build import last_word, mixture, multiple_choice, text
from layershap.tasks.rows import read_rows
from layershap.tasks.task import Task

__all__ = ["Task", "last_word", "mixture", "multiple_choice", "read_rows", "text"]

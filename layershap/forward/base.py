"""What both forwards are: a way to measure masked models on the calibration tokens.

Shapes: U masks of a sweep, S calibration sequences, L layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from layershap.forward.settings import EngineSettings, Progress, Tokens
from layershap.model.sublayers import Players
from layershap.protocols import FloatArray, MaskArray, Statistic


class Forward(ABC):
    """Measures masked models.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode while this is used, as are gradients off.
    stack : LayerStack or SublayerStack
        The players: its layers or their sublayers.
    tokens : Tokens
        What to score, on the model's device.
    statistics : tuple of str
        What to measure per scored token.
    settings : EngineSettings
        Batch and memory limits.
    """

    def __init__(
        self,
        model: nn.Module,
        stack: Players,
        tokens: Tokens,
        statistics: tuple[Statistic, ...],
        settings: EngineSettings,
    ) -> None:
        self.model = model
        self.stack = stack
        self.tokens = tokens
        self.statistics = statistics
        self.settings = settings

    @property
    @abstractmethod
    def state_bytes(self) -> int:
        """Memory of one state between layers, on the whole calibration set."""

    @abstractmethod
    def layer_runs(self, masks_UL: MaskArray) -> int:
        """Layer runs that `run` needs for distinct, sorted masks [U, L]."""

    @abstractmethod
    def run(self, masks_UL: MaskArray, progress: Progress, n_blocks: int | None = None) -> dict[Statistic, FloatArray]:
        """Statistics [U, S] of distinct, sorted masks [U, L] of one sweep, on the first blocks or all."""

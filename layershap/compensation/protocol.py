"""`Compensation`: what a way to make up for removed layers has to offer, and what it leaves behind.

Shapes: S calibration sequences, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import nn

from layershap.calibration import Calibration
from layershap.compensation.gaps import Gap, gaps_of
from layershap.model.stack import LayerStack
from layershap.protocols import FloatArray


@dataclass(frozen=True)
class Removal:
    """A removal that is to be compensated, as the model before it shows it.

    Attributes
    ----------
    model : nn.Module
        The model with all its layers; only read.
    stack : LayerStack
        Its layers.
    removed : tuple of int
        The layers that go, sorted.
    calibration : Calibration
        The text to measure on.
    """

    model: nn.Module
    stack: LayerStack
    removed: tuple[int, ...]
    calibration: Calibration

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The gaps that the removal leaves, front to back."""
        return gaps_of(self.removed, len(self.stack))

    @property
    def kept(self) -> tuple[int, ...]:
        """The layers that stay, sorted."""
        return tuple(layer for layer in range(len(self.stack)) if layer not in self.removed)


@dataclass(frozen=True)
class WeightChange:
    """One change of a kept layer's weights.

    Attributes
    ----------
    layer : int
        The layer, in the numbering before the removal; the first of those that were changed.
    module : str
        Dotted name of the changed module inside the layer; '' if it is all that writes to the residual stream from that
        layer on (`Rescale`).
    kind : str
        What was done: ``"stream before it times 1.31"``, ``"ridge 1"``, ``"mapped"``.
    loss : float
        Loss on the held-out sequences after this change and those before it, in nats per token.
    """

    layer: int
    module: str
    kind: str
    loss: float


@dataclass(frozen=True)
class CompensationRecord:
    """What a compensation did to a pruned model; ``str()`` gives it in lines.

    Attributes
    ----------
    method : str
        Name of the compensation's class.
    removed : tuple of int
        The layers whose removal it makes up for.
    changes : tuple of WeightChange
        The changed weights, front to back; none if no change lowered the held-out loss.
    loss_before, loss_after : float
        Loss of the pruned model on the held-out calibration sequences, before and after, in nats per token.
    n_tokens, n_held_out : int
        Numbers of calibration tokens that were measured on, and that were held out to choose by.
    text : dict
        Provenance of the calibration text.
    notes : tuple of str
        What was left alone, and why.
    """

    method: str
    removed: tuple[int, ...]
    changes: tuple[WeightChange, ...]
    loss_before: float
    loss_after: float
    n_tokens: int
    n_held_out: int
    text: dict[str, Any]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.method} without layers {list(self.removed)}: held-out loss {self.loss_before:.4f} -> "
            f"{self.loss_after:.4f} nats per token ({self.n_tokens:,} tokens fitted to, {self.n_held_out:,} held out)"
        ]
        for change in self.changes:
            lines.append(
                f"  layer {change.layer} {change.module}".rstrip() + f": {change.kind}; loss {change.loss:.4f}"
            )
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def record_from(stored: dict[str, Any]) -> CompensationRecord:
    """A record from ``dataclasses.asdict`` of it, also by way of JSON."""
    changes = tuple(WeightChange(**change) for change in stored["changes"])
    sequences = {"removed": tuple(stored["removed"]), "notes": tuple(stored["notes"])}
    return CompensationRecord(**{**stored, **sequences, "changes": changes})


@runtime_checkable
class Compensation(Protocol):
    """A change of the kept layers' weights that makes up for the removed ones, without training.

    The pruned model keeps its architecture, so that the result is a checkpoint like any other.
    """

    def measure(self, removal: Removal) -> Any:
        """Measure the model before the layers go. What can't be compensated is refused here.

        Called when a removal has been checked and nothing is removed yet.

        Parameters
        ----------
        removal : Removal
            The model, the layers that will go, and the text.

        Returns
        -------
        Any
            What `apply` needs; holds no reference to the model, which may be the one that is pruned.

        Raises
        ------
        UnsupportedModelError
            The model can't be compensated so; the message says why.
        """

    def apply(self, pruned: nn.Module, stack: LayerStack, measured: Any) -> CompensationRecord:
        """Change the weights of the pruned model, in place.

        Called when the layers are gone and the pruned model has been checked.

        Parameters
        ----------
        pruned : nn.Module
            The model without the layers; it shares no weights with another.
        stack : LayerStack
            The layers that stayed.
        measured : Any
            What `measure` returned.

        Returns
        -------
        CompensationRecord
            What was changed, and the loss before and after.
        """


@runtime_checkable
class RefusesEarly(Protocol):
    """A compensation that can tell before layers are chosen that it can't serve a model, or a text."""

    def check(self, model: nn.Module, stack: LayerStack, calibration: Calibration) -> None:
        """Refuse what no choice of layers would mend: parameters out of range, too little text, such a model.

        Called when a pruner or a baseline is fitted, its cost is estimated, or `layershap.compare` begins: before
        anything is evaluated.

        Parameters
        ----------
        model : nn.Module
            The model with all its layers; only read.
        stack : LayerStack
            Its layers.
        calibration : Calibration
            All calibration sequences.

        Raises
        ------
        UnsupportedModelError
            No layer of the model can be changed so; the message says why.
        TypeError, ValueError
            A parameter is out of range, or there is too little text.
        """


@runtime_checkable
class ScalesSkippedLayers(Protocol):
    """A compensation under which the game can be played: a skipped layer scales the hidden states."""

    def skip_scales(self, model: nn.Module, stack: LayerStack, calibration: Calibration) -> FloatArray | None:
        """What each skipped layer multiplies the states by [L]; None to play the game without.

        Called when `layershap.LayerPruner` opens its game, once in each `fit`.

        Parameters
        ----------
        model : nn.Module
            The model with all its layers.
        stack : LayerStack
            Its layers.
        calibration : Calibration
            All calibration sequences.

        Returns
        -------
        ndarray [L] or None
            The scales.
        """

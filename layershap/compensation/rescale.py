"""`Rescale`: one scalar per gap, folded into the weights that write to the residual stream after it.

Shapes: L layers, B rows, T tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from sklearn.base import BaseEstimator
from torch import nn

from layershap.calibration import Calibration
from layershap.compensation.held_out import SplitText, split
from layershap.compensation.layerwise import Layerwise, quiet
from layershap.compensation.old_values import put_back_if_it_fails
from layershap.compensation.protocol import CompensationRecord, Removal, WeightChange
from layershap.compensation.scales import layer_scales
from layershap.compensation.served import first_served
from layershap.compensation.writes import Scaling, WriteFinder
from layershap.exceptions import SurgeryCheckError
from layershap.model.agreement import plain_logits, relative_difference, tolerance
from layershap.model.patching import patched
from layershap.model.stack import LayerStack
from layershap.protocols import FloatArray

_TOLERANCE, _TOLERANCE_HALF = 1e-3, 1e-2
"""Largest difference of the losses of folded and hooked model, relative to one plus the loss."""


@dataclass(frozen=True)
class _Measured:
    """What `Rescale.measure` keeps of the model.

    `factors` holds, by the place of the layer after a gap, what the state should be multiplied by there; `scalings`
    how the writes of each kept layer are scaled, by its place.
    """

    removed: tuple[int, ...]
    kept: tuple[int, ...]
    text: SplitText
    factors: dict[int, float]
    scalings: dict[int, tuple[Scaling, ...]]
    notes: tuple[str, ...]


class Rescale(BaseEstimator):
    """Multiply the hidden state at each gap by the ratio of its mean absolute values after and before the gap.

    The multiplication is folded into weights: everything that layers write to the residual stream after the gap is
    divided by the factor instead, and the norms that read the stream take the common scale away. So embeddings, tied or
    not, stay as they are. The factor of a gap is used if it lowers the loss on calibration sequences that it was not
    measured on.

    Parameters
    ----------
    held_out : float, default=0.25
        Share of the calibration sequences to choose by.
    in_game : bool, default=False
        Whether `layershap.LayerPruner` scores masked models as they would be rescaled: a skipped layer multiplies the
        hidden states by its own ratio, and the ratios of a gap multiply to the gap's factor.

    References
    ----------
    Prune&Comp, 2025, arXiv 2507.18212.
    """

    def __init__(self, *, held_out: float = 0.25, in_game: bool = False) -> None:
        self.held_out = held_out
        self.in_game = in_game

    def skip_scales(self, model: nn.Module, stack: LayerStack, calibration: Calibration) -> FloatArray | None:
        """What each skipped layer multiplies the states by [L] (`layer_scales`); None unless `in_game`.

        The arguments `model`, `stack` and `calibration` are as in `layer_scales`.
        """
        return layer_scales(model, stack, calibration) if self.in_game else None

    def check(self, model: nn.Module, stack: LayerStack, calibration: Calibration) -> None:
        """Refuse parameters out of range, a single sequence, and a model of which no layer's writes can be scaled.

        The arguments `model`, `stack` and `calibration` are as in `layershap.compensation.RefusesEarly.check`.
        """
        split(calibration, self.held_out)
        with quiet(model):
            finder = WriteFinder(model, stack)

            def serve(layer: int) -> tuple[Scaling, ...]:
                finder.check_head(layer)
                return finder.scalings(layer)

            first_served(range(len(stack)), serve)

    def measure(self, removal: Removal) -> _Measured:
        """Measure how much each gap scales the stream, and find what writes to it afterwards.

        Parameters
        ----------
        removal : Removal
            The model, the layers that will go, and the text.

        Returns
        -------
        Any
            What `apply` needs.
        """
        text = split(removal.calibration, self.held_out)
        kept = removal.kept
        gaps = {gap.before + 1: gap for gap in removal.gaps if gap.before + 1 < len(kept)}
        scalings = {}
        with quiet(removal.model):
            finder = WriteFinder(removal.model, removal.stack)  # refuses layers that can't be run one by one
            if gaps:
                scalings = {place: finder.scalings(kept[place]) for place in range(min(gaps), len(kept))}
                finder.check_head(kept[-1])
        scales_L = layer_scales(removal.model, removal.stack, text.fitted)
        factors = {place: float(scales_L[list(gap.layers)].prod()) for place, gap in gaps.items()}
        notes = [
            f"layers {list(gap.layers)} have no layer after them: the last norm takes a scale there away"
            for gap in removal.gaps
            if gap.before + 1 == len(kept)
        ]
        return _Measured(removal.removed, kept, text, factors, scalings, tuple(notes))

    def apply(self, pruned: nn.Module, stack: LayerStack, measured: _Measured) -> CompensationRecord:
        """Fold the factors that lower the held-out loss, and check the result against the hooked model.

        Parameters
        ----------
        pruned : nn.Module
            The model without the layers.
        stack : LayerStack
            The layers that stayed.
        measured : Any
            What `measure` returned.

        Returns
        -------
        CompensationRecord
            What was changed, and the loss before and after.
        """
        used: dict[int, float] = {}
        changes: list[WeightChange] = []
        notes = list(measured.notes)
        with quiet(pruned):
            held_out = Layerwise(pruned, stack, measured.text.held_out)
            loss = before = held_out.loss_before()
            for place, factor in sorted(measured.factors.items()):
                with multiplied(stack, {**used, place: factor}):
                    found = held_out.loss(0, held_out.start())
                if found < loss:
                    used[place], loss = factor, found
                    changes.append(WeightChange(measured.kept[place], "", f"stream before it times {factor:.4g}", loss))
                else:
                    layer = measured.kept[place]
                    notes.append(f"the stream before layer {layer} times {factor:.4g} doesn't lower the held-out loss")
            if used:
                with put_back_if_it_fails() as old:
                    old.keep(scaled_parameters(stack, measured.scalings))
                    fold(pruned, stack, used, measured.scalings)
                    folded = held_out.loss(0, held_out.start())
                    _check_loss(pruned, folded, loss)
                    if folded < before:
                        loss, changes[-1] = folded, replace(changes[-1], loss=folded)
                    else:  # in half precision the rounding of the weights can cost more than the factors gain
                        old.put_back()
                        loss, changes = before, []
                        notes.append("folded in this precision, the factors don't lower the held-out loss")
        return measured.text.record(self, measured.removed, changes, (before, loss), tuple(notes))


def scaled_parameters(stack: LayerStack, scalings: Mapping[int, tuple[Scaling, ...]]) -> Iterator[nn.Parameter]:
    """The parameters that `fold` changes."""
    for place, found in scalings.items():
        for scaling in found:
            yield from scaling.parameters_of(stack.layers[place])


def multiplied(stack: LayerStack, factors: Mapping[int, float]) -> AbstractContextManager[None]:
    """A context in which the states that enter some layers are multiplied; the reference for `Rescale`'s folding."""
    places = list(factors)

    def make(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
        form, factor = stack.forms[places[index]], factors[places[index]]

        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden = form.hidden_from(args, kwargs) * factor
            if isinstance(form.hidden, int):
                return original(*args[: form.hidden], hidden, *args[form.hidden + 1 :], **kwargs)
            return original(*args, **{**kwargs, form.hidden: hidden})

        return forward

    return patched([stack.layers[place] for place in places], make)


def fold(
    pruned: nn.Module, stack: LayerStack, factors: Mapping[int, float], scalings: Mapping[int, tuple[Scaling, ...]]
) -> None:
    """Divide the writes after each gap by the factors of the gaps before them.

    Raises
    ------
    SurgeryCheckError
        The model is then not the hooked one, to float32's precision: something doesn't take the common scale away.
    """
    # In half precision other roundings make other logits of the probe's random tokens, by half of the largest at
    # times, and the same loss: that is compared instead (`_check_loss`).
    compared = tolerance(pruned) < _TOLERANCE_HALF
    with multiplied(stack, factors):
        expected_BTV = plain_logits(pruned) if compared else None
    divisor = 1.0
    for place in range(min(factors), len(stack)):
        divisor *= factors.get(place, 1.0)
        for scaling in scalings[place]:
            scaling.apply(stack.layers[place], 1 / divisor)
    if expected_BTV is None:
        return
    difference = relative_difference(plain_logits(pruned), expected_BTV)
    allowed = max(tolerance(pruned), 1e-3)
    if not difference <= allowed:
        raise SurgeryCheckError(
            f"{type(pruned).__name__} with the gaps' factors folded into its weights must give the logits of the model "
            f"whose states are multiplied, they differ by {difference:.2g} of the largest logit (allowed: "
            f"{allowed:.2g}): something reads the residual stream without a norm, or a norm's epsilon is no small "
            "part of it. Use LinearRefit"
        )


def _check_loss(pruned: nn.Module, folded: float, hooked: float) -> None:
    """Raise `SurgeryCheckError` unless the folded model has the loss of the one whose states are multiplied."""
    allowed = _TOLERANCE_HALF if tolerance(pruned) >= _TOLERANCE_HALF else _TOLERANCE
    if not abs(folded - hooked) <= allowed * (1 + hooked):
        raise SurgeryCheckError(
            f"{type(pruned).__name__} with the gaps' factors folded into its weights must have the loss of the model "
            f"whose states are multiplied, {hooked:.4f} nats per token, it has {folded:.4f}: something reads the "
            "residual stream without a norm. Use LinearRefit"
        )

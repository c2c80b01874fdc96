"""`LinearRefit`: refit the last linear layer before each gap, so that the state after it is what it was in the model.

Shapes: N tokens, D hidden size, F inputs of the linear layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from layershap.calibration import Calibration
from layershap.compensation.gaps import Scope, checked_scope, refitted
from layershap.compensation.held_out import SplitText, split
from layershap.compensation.layerwise import Layerwise, check_finite, check_layout, in_blocks, quiet
from layershap.compensation.linear import LinearLayer
from layershap.compensation.old_values import put_back_if_it_fails
from layershap.compensation.protocol import CompensationRecord, Removal, WeightChange
from layershap.compensation.regression import StreamedRidge
from layershap.compensation.served import first_served, linear_writes, linear_writes_of
from layershap.compensation.writes import WriteFinder
from layershap.exceptions import CalibrationWarning, UnsupportedModelError
from layershap.forward.state import State
from layershap.model.patching import patched
from layershap.model.stack import LayerStack
from layershap.model.states import states_at
from layershap.warning import warn_user


@dataclass(frozen=True)
class _Refit:
    """One linear layer to refit: its layer before and after the removal, its name, the state it should lead to."""

    layer: int
    place: int
    module: str
    multiplier: float
    boundary: int
    n_inputs: int


@dataclass(frozen=True)
class _Measured:
    """What `LinearRefit.measure` keeps of the model: targets [B, T, D] by boundary and block, on the host."""

    removed: tuple[int, ...]
    text: SplitText
    refits: tuple[_Refit, ...]
    targets: dict[int, list[Tensor]]
    notes: tuple[str, ...]


class LinearRefit(BaseEstimator):
    """Refit the last linear layer before each gap by ridge regression, front to back.

    For each token, the target is the hidden state that the model with all its layers has after the gap; the inputs are
    the *pruned* model's own, so that each refit also mends what those before it left. Tokens are weighted by one over
    the target's mean square. The weights shrink towards those they had; how strongly is chosen by the loss of the real
    model on calibration sequences that the regression did not see, and "not at all" is among the choices. So the
    held-out loss never rises.

    Parameters
    ----------
    scope : {"gaps", "all"}, default="gaps"
        Layers that are refitted.

        - "gaps": the kept layer before each gap.
        - "all": these and every kept layer after the first gap, towards the state after the same layer.
    writes : {"last", "all"}, default="last"
        Which of such a layer's linear layers that write to the residual stream are refitted.

        - "last": the last one, the feed-forward part's in most models.
        - "all": after it those before it too, attention's.
    ridges : sequence of float, default=(10, 3, 1, 0.3, 0.1, 0.03, 0.01)
        Strengths of the shrinkage to choose from, in units of the Gram matrix's mean diagonal.
    held_out : float, default=0.25
        Share of the calibration sequences to choose by.

    References
    ----------
    Shopkhoev et al., ReplaceMe, 2025, arXiv 2505.02819, fit a linear map once, on the dense model's states.
    """

    def __init__(
        self,
        scope: Scope = "gaps",
        *,
        writes: Literal["last", "all"] = "last",
        ridges: Sequence[float] = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01),
        held_out: float = 0.25,
    ) -> None:
        self.scope = scope
        self.writes = writes
        self.ridges = ridges
        self.held_out = held_out

    def check(self, model: nn.Module, stack: LayerStack, calibration: Calibration) -> None:
        """Refuse parameters out of range, a single sequence, and a model of which no layer can be refitted.

        The arguments `model`, `stack` and `calibration` are as in `layershap.compensation.RefusesEarly.check`.

        Warns
        -----
        CalibrationWarning
            There are fewer tokens than four times the inputs of the linear layer.
        """
        text = self._split(calibration)
        with quiet(model):
            finder = WriteFinder(model, stack)
            found = first_served(range(len(stack)), lambda layer: linear_writes_of(finder, model, stack, layer)[0][1])
        self._warn_of_few_tokens([found.n_inputs], text.n_fitted_tokens)

    def _split(self, calibration: Calibration) -> SplitText:
        """The text in two parts, once the parameters are in range."""
        checked_scope(self.scope)
        if self.writes not in ("last", "all"):
            raise ValueError(f"writes must be 'last' or 'all', got {self.writes!r}")
        ridges = np.asarray(self.ridges)
        numbers = ridges.dtype.kind in "iuf" and ridges.ndim == 1 and ridges.size > 0
        if not numbers or not (np.isfinite(ridges) & (ridges > 0)).all():
            raise ValueError(f"ridges must be positive numbers, (1.0, 0.1) say, got {self.ridges!r}")
        return split(calibration, self.held_out)

    def measure(self, removal: Removal) -> _Measured:
        """Keep the states after the gaps that the model with all its layers has.

        Parameters
        ----------
        removal : Removal
            The model, the layers that will go, and the text.

        Returns
        -------
        Any
            What `apply` needs.
        """
        text = self._split(removal.calibration)
        with quiet(removal.model):
            refits, left_alone = self._refits(removal)
            self._warn_of_few_tokens([refit.n_inputs for refit in refits], text.n_fitted_tokens)
            targets: dict[int, list[Tensor]] = {refit.boundary: [] for refit in refits}
            if refits:
                tokens = in_blocks(removal.model, text.fitted)
                for block in tokens.blocks:
                    states = states_at(removal.model, removal.stack, block.ids_BT, targets.keys())
                    for boundary, state in states.items():
                        check_layout(state, block.ids_BT)
                        check_finite(state, f"the hidden states before layer {boundary}")
                        targets[boundary].append(state.cpu())
        notes = [
            f"layers {list(gap.layers)} have no layer before them to refit" for gap in removal.gaps if gap.before < 0
        ]
        return _Measured(removal.removed, text, refits, targets, (*notes, *left_alone))

    def _refits(self, removal: Removal) -> tuple[tuple[_Refit, ...], tuple[str, ...]]:
        """The linear layers to refit, in order, and notes on layers that can't be."""
        kept, gaps = removal.kept, removal.gaps
        after = {gap.before: gap.stop for gap in gaps if gap.before >= 0}
        places = {kept[place]: place for place in refitted(gaps, len(kept), self.scope)}
        if not places:
            return (), ()
        finder = WriteFinder(removal.model, removal.stack)
        found, notes = linear_writes(finder, removal.model, removal.stack, places)
        refits = []
        for layer, written in found.items():
            boundary = after.get(places[layer], layer + 1)
            refits += [
                _Refit(layer, places[layer], write.name, write.multiplier, boundary, linear.n_inputs)
                for write, linear in (written if self.writes == "all" else written[:1])
            ]
        return tuple(refits), notes

    def _warn_of_few_tokens(self, n_inputs: Sequence[int], n_tokens: int) -> None:
        most = max(n_inputs, default=0)
        if n_tokens < 4 * most:
            warn_user(
                f"LinearRefit fits {most:,} inputs per output to {n_tokens:,} tokens; with fewer than {4 * most:,} the "
                "shrinkage leaves most weights as they are, and little is gained. Give "
                f"{round(4 * most / (1 - self.held_out)):,} tokens or more, of all kinds that matter; a share of "
                f"{self.held_out:g} is held out",
                CalibrationWarning,
            )

    def apply(self, pruned: nn.Module, stack: LayerStack, measured: _Measured) -> CompensationRecord:
        """Refit front to back, each with the strength that lowers the held-out loss most.

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
        changes: list[WeightChange] = []
        notes = list(measured.notes)
        with quiet(pruned), put_back_if_it_fails() as old:
            fitted = Layerwise(pruned, stack, measured.text.fitted)
            held_out = fitted.on(measured.text.held_out)
            loss = before = held_out.loss_before()
            last = max((refit.place for refit in measured.refits), default=-1)
            states, held = (fitted.start(), held_out.start()) if measured.refits else ([], [])
            for place in range(last + 1):
                for refit in (refit for refit in measured.refits if refit.place == place):
                    linear = LinearLayer(stack.layers[place].get_submodule(refit.module))
                    old.keep(linear.module.parameters())
                    ridge = _regression(fitted, linear, refit, states, measured.targets[refit.boundary])
                    if not ridge.finite:
                        notes.append(f"layer {refit.layer} is left alone: the pruned model overflows there")
                        continue
                    strength, loss = self._strength(linear, ridge, partial(held_out.loss, place, held), loss)
                    if strength is not None:
                        changes.append(WeightChange(refit.layer, refit.module, f"ridge {strength:g}", loss))
                states, held = fitted.through(place, states), held_out.through(place, held)
        return measured.text.record(self, measured.removed, changes, (before, loss), tuple(notes))

    def _strength(
        self, linear: LinearLayer, regression: StreamedRidge, loss_of: Callable[[], float], loss: float
    ) -> tuple[float | None, float]:
        """The ridge whose change of the weights, which stays, has the least loss; None leaves them as they were.

        From strong to weak shrinkage, until the loss rises after it has come below that of the strongest: where much is
        broken, weaker shrinkage may help after a middle one that doesn't.
        """
        base = linear.snapshot()
        best: tuple[float | None, float, Tensor | None] = (None, loss, None)
        losses: list[float] = []
        for ridge in sorted(self.ridges, reverse=True):
            change_DF = regression.change(ridge).float()
            linear.set(base, change_DF)
            found = loss_of()
            if found < best[1]:
                best = (ridge, found, change_DF)
            if losses and losses[0] > losses[-1] < found:
                break
            losses.append(found)
        linear.set(base, best[2])
        return best[0], best[1]


def _regression(
    layerwise: Layerwise, linear: LinearLayer, refit: _Refit, states: list[State], targets: list[Tensor]
) -> StreamedRidge:
    """The regression from the linear layer's inputs to what its outputs lack."""
    device = linear.weight_DF.device
    ridge = StreamedRidge(linear.n_inputs, linear.weight_DF.shape[0], device)
    seen: list[Tensor] = []

    def record(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            seen.extend([*args, *kwargs.values()])
            return original(*args, **kwargs)

        return forward

    for block, (state, target_BTD) in enumerate(zip(states, targets, strict=True)):
        seen.clear()
        with patched([linear.module], record):
            after_BTD = layerwise.block_through(refit.place, block, state).hidden
        real_BT = layerwise.real[block].to(device)
        if len(seen) != 1:
            raise UnsupportedModelError(
                f"a refit needs one call of {refit.module} in layer {refit.layer} with its input alone; got "
                f"{len(seen)} arguments or calls"
            )
        real_N = real_BT.flatten()
        target_ND = target_BTD.to(device).flatten(0, 1)[real_N].float()
        missing_ND = (target_ND - after_BTD.flatten(0, 1)[real_N].float()) / refit.multiplier
        ridge.add(linear.inputs(seen[0])[real_N], missing_ND, 1 / target_ND.square().mean(dim=1).clamp_min(1e-12))
    return ridge

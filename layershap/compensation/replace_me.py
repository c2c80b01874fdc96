"""`ReplaceMe`: the published linear map for each gap, fitted once on the dense model's states, to compare with.

Shapes: N tokens, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from sklearn.base import BaseEstimator
from torch import Tensor, nn

from layershap.calibration import Calibration
from layershap.compensation.gaps import Gap
from layershap.compensation.held_out import SplitText, split
from layershap.compensation.layerwise import Layerwise, check_finite, check_layout, in_blocks, quiet, real_tokens
from layershap.compensation.linear import LinearLayer
from layershap.compensation.old_values import put_back_if_it_fails
from layershap.compensation.protocol import CompensationRecord, Removal, WeightChange
from layershap.compensation.regression import StreamedRidge
from layershap.compensation.served import LinearWrite, first_served, linear_writes, linear_writes_of
from layershap.compensation.writes import WriteFinder
from layershap.model.patching import patched
from layershap.model.stack import LayerStack
from layershap.model.states import states_at


@dataclass(frozen=True)
class _Map:
    """The linear map after one layer's last write, as its difference from the identity [D, D]."""

    layer: int
    place: int
    module: str
    change_DD: Tensor


@dataclass(frozen=True)
class _Measured:
    removed: tuple[int, ...]
    text: SplitText
    maps: tuple[_Map, ...]
    notes: tuple[str, ...]


class ReplaceMe(BaseEstimator):
    """Put a linear map after the feed-forward part before each gap, folded into its last linear layer.

    The map takes the feed-forward part's output to what, with the rest of the residual stream, makes the state after
    the gap; by least squares on the states of the model with all its layers. Nothing is chosen on held-out text: this
    is the published method, `LinearRefit` the one to use.

    Parameters
    ----------
    ridge : float, default=1e-6
        Shrinkage towards the identity, in units of the Gram matrix's mean diagonal. The paper's is none.
    held_out : float, default=0.25
        Share of the calibration sequences on which the loss before and after is told.

    References
    ----------
    Shopkhoev et al., ReplaceMe: Network Simplification via Depth Pruning and Transformer Block Linearization, 2025,
    arXiv 2505.02819, section 3.
    """

    def __init__(self, *, ridge: float = 1e-6, held_out: float = 0.25) -> None:
        self.ridge = ridge
        self.held_out = held_out

    def check(self, model: nn.Module, stack: LayerStack, calibration: Calibration) -> None:
        """Refuse parameters out of range, a single sequence, and a model of which no layer can be mapped.

        The arguments `model`, `stack` and `calibration` are as in `layershap.compensation.RefusesEarly.check`.
        """
        self._split(calibration)
        with quiet(model):
            finder = WriteFinder(model, stack)
            first_served(range(len(stack)), lambda layer: linear_writes_of(finder, model, stack, layer))

    def _split(self, calibration: Calibration) -> SplitText:
        """The text in two parts, once the parameters are in range."""
        ridge: Any = self.ridge  # whatever the user gave
        if isinstance(ridge, bool) or not isinstance(ridge, Real) or not 0 <= float(ridge) < math.inf:
            raise ValueError(f"ridge must be a number of at least 0, got {ridge!r}")
        return split(calibration, self.held_out)

    def measure(self, removal: Removal) -> _Measured:
        """Fit the map of each gap.

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
        gaps = [gap for gap in removal.gaps if gap.before >= 0]
        notes = [f"layers {list(gap.layers)} have no layer before them" for gap in removal.gaps if gap.before < 0]
        maps: list[_Map] = []
        with quiet(removal.model):
            if gaps:
                finder = WriteFinder(removal.model, removal.stack)
                layers = [gap.first - 1 for gap in gaps]
                served, left_alone = linear_writes(finder, removal.model, removal.stack, layers)
                maps = self._maps(removal, [gap for gap in gaps if gap.first - 1 in served], served, text.fitted)
                notes += left_alone
        return _Measured(removal.removed, text, tuple(maps), tuple(notes))

    def _maps(
        self, removal: Removal, gaps: list[Gap], served: dict[int, list[LinearWrite]], fitted: Calibration
    ) -> list[_Map]:
        """The map of each gap, whose layer before it is `served`."""
        layers = [gap.first - 1 for gap in gaps]
        writes = [served[layer][0][0] for layer in layers]
        modules = [served[layer][0][1].module for layer in layers]
        written: dict[int, Tensor] = {}

        def record(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                output = original(*args, **kwargs)
                written[index] = output.clone()  # layers may add to it in place (Falcon's attention)
                return output

            return forward

        tokens = in_blocks(removal.model, fitted)
        boundaries = {boundary for gap in gaps for boundary in (gap.first, gap.stop)}
        regressions: list[StreamedRidge] = []
        with patched(modules, record):
            for block, real_BT in zip(tokens.blocks, real_tokens(tokens, fitted), strict=True):
                states = states_at(removal.model, removal.stack, block.ids_BT, boundaries)
                for index, gap in enumerate(gaps):
                    before = states[gap.first]
                    after = states[gap.stop].to(before.device)  # of a model on several devices
                    check_layout(before, real_BT)
                    check_finite(after, f"the hidden states before layer {gap.stop}")
                    if len(regressions) == index:
                        width = before.shape[-1]
                        regressions.append(StreamedRidge(width, width, before.device))
                    real_N = real_BT.flatten().to(before.device)
                    inputs_ND = written[index].to(before.device).flatten(0, -2)[real_N].float()
                    inputs_ND *= writes[index].multiplier
                    missing_ND = (after.float() - before.float()).flatten(0, 1)[real_N]
                    regressions[index].add(inputs_ND, missing_ND, inputs_ND.new_ones(len(inputs_ND)))
        return [
            _Map(layer, gap.before, write.name, regression.change(self.ridge))
            for layer, gap, write, regression in zip(layers, gaps, writes, regressions, strict=True)
        ]

    def apply(self, pruned: nn.Module, stack: LayerStack, measured: _Measured) -> CompensationRecord:
        """Fold the maps into the linear layers.

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
        with quiet(pruned), put_back_if_it_fails() as old:
            held_out = Layerwise(pruned, stack, measured.text.held_out)
            loss = before = held_out.loss_before()
            for fitted in measured.maps:
                linear = LinearLayer(stack.layers[fitted.place].get_submodule(fitted.module))
                old.keep(linear.module.parameters())
                linear.compose(fitted.change_DD)
                loss = held_out.loss(0, held_out.start())
                changes.append(WeightChange(fitted.layer, fitted.module, "mapped", loss))
        return measured.text.record(self, measured.removed, changes, (before, loss), measured.notes)

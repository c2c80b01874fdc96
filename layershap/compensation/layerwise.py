"""A model run layer by layer on all calibration sequences, so that a layer can be changed before the next one runs.

Shapes: S sequences, B sequences of a block, T tokens, D hidden size.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from layershap.calibration import Calibration
from layershap.exceptions import UnsupportedModelError
from layershap.forward.engine import Engine
from layershap.forward.fused import FusedForward
from layershap.forward.settings import EngineSettings, Tokens
from layershap.forward.state import State
from layershap.model.io import input_device
from layershap.model.patching import evaluation_mode
from layershap.model.stack import LayerStack


class Layerwise:
    """The layers of a model as functions of the states of all calibration sequences.

    Gradients must be off and the model in evaluation mode while this is used (`quiet`).

    Parameters
    ----------
    model : nn.Module
        Causal language model.
    stack : LayerStack
        Its layers.
    calibration : Calibration
        The sequences.

    Attributes
    ----------
    n_scored : int
        Number of tokens that the loss is a mean over.
    real : list of Tensor [B, T] of bool
        False for padding, block by block.

    Raises
    ------
    UnsupportedModelError
        The layers can't be run one by one.
    """

    def __init__(self, model: nn.Module, stack: LayerStack, calibration: Calibration) -> None:
        settings = EngineSettings.resolve("auto", "auto", input_device(model))
        # All layers run here, so the engine compares its two forwards with all of them only.
        engine = Engine(model, stack, calibration, ("nll",), settings, always_kept=range(len(stack)))
        forward = engine.forward
        if not isinstance(forward, FusedForward):
            raise UnsupportedModelError(
                f"a compensation runs the layers of {type(model).__name__} one by one, which can't be done: "
                f"{engine.note}"
            )
        self._forward = forward
        self.n_scored = int(calibration.counts_S.sum())
        self.real = real_tokens(engine.tokens, calibration)

    def on(self, calibration: Calibration) -> Layerwise:
        """The same layers on other sequences, without observing and comparing their calls anew."""
        other = copy.copy(self)
        tokens = in_blocks(self._forward.model, calibration)
        other._forward = self._forward.on(tokens)
        other.n_scored = int(calibration.counts_S.sum())
        other.real = real_tokens(tokens, calibration)
        return other

    def start(self) -> list[State]:
        """The state of each block before the first layer."""
        return self._forward.first_states()

    def through(self, layer: int, states: list[State]) -> list[State]:
        """The states after a layer."""
        return [self.block_through(layer, block, state) for block, state in enumerate(states)]

    def block_through(self, layer: int, block: int, state: State) -> State:
        """The state of one block after a layer."""
        return self._forward.advance(layer, block, state)

    def loss_before(self) -> float:
        """Loss before any change, in nats per token.

        Raises
        ------
        UnsupportedModelError
            It is NaN, so that no change can be told to lower it.
        """
        loss = self.loss(0, self.start())
        if math.isnan(loss):
            raise UnsupportedModelError(
                "the pruned model's loss on the held-out calibration sequences must be a number for a compensation to "
                "be judged by it, it is NaN: do the kept layers hold NaN, or overflow in this precision?"
            )
        return loss

    def loss(self, layer: int, states: list[State]) -> float:
        """Loss of the model whose layers from `layer` on run on these states, in nats per token."""
        for following in range(layer, len(self._forward.stack)):
            states = self.through(following, states)
        return float(self._forward.last_sums(states)["nll"].sum()) / self.n_scored


def in_blocks(model: nn.Module, calibration: Calibration) -> Tokens:
    """The sequences in the blocks in which `Layerwise` takes them."""
    device = input_device(model)
    return Tokens.of(calibration, device, EngineSettings.resolve("auto", "auto", device).batch_tokens)


def real_tokens(tokens: Tokens, calibration: Calibration) -> list[Tensor]:
    """Which positions of each block [B, T] hold text: False for padding."""
    order_S = torch.from_numpy(tokens.place_S).argsort()
    lengths_S = calibration.lengths_S[order_S]
    return [
        torch.arange(block.ids_BT.shape[1], device=lengths_S.device) < lengths_S[block.rows, None]
        for block in tokens.blocks
    ]


def check_layout(hidden: Tensor, ids_BT: Tensor) -> None:
    """Raise `UnsupportedModelError` unless hidden states are [B, T, D], so that padding can be told from text."""
    if hidden.dim() != 3 or hidden.shape[:2] != ids_BT.shape:
        raise UnsupportedModelError(
            f"a compensation by regression needs hidden states [B, T, D]; the model's have shape {tuple(hidden.shape)} "
            f"for ids of shape {tuple(ids_BT.shape)}"
        )


def check_finite(values: Tensor, where: str) -> None:
    """Raise `UnsupportedModelError` unless all values are numbers: nothing can be measured on others."""
    if not bool(torch.isfinite(values).all()):
        raise UnsupportedModelError(
            f"{where} must be finite for a compensation to be measured, they hold NaN or infinity: is the model sound "
            "on this text, in this precision? (float16 overflows where bfloat16 doesn't)"
        )


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Without gradients and dropout. Weights may be changed in place."""
    with torch.no_grad(), evaluation_mode(model):
        yield

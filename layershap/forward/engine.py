"""Which forward serves a model, and its work in sweeps within a memory budget.

Two forwards give the same numbers: the fused one (replayed layers, shared prefixes) and the plain one (the whole model
with layers skipped, one mask at a time), which serves models whose layers can't be replayed. Which one serves is
decided by comparing both on the model at hand.

Shapes: M masks, U masks of a sweep, S calibration sequences, B sequences of a block, L layers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
from torch import nn

from layershap.calibration import IGNORE, Calibration
from layershap.forward.base import Forward
from layershap.forward.fused import FusedForward
from layershap.forward.head import needs_dense
from layershap.forward.plain import PlainForward
from layershap.forward.plan import PrefixPlan, plan
from layershap.forward.settings import EngineSettings, Progress, Tokens, any_offloaded
from layershap.masks import distinct
from layershap.model.io import evaluation_mode, input_device
from layershap.model.skeleton import on_meta_device, shapes_only
from layershap.model.sublayers import Players
from layershap.protocols import FloatArray, MaskArray, Statistic

SWEEP_MASKS = 256
"""Masks of a sweep: what an interruption may cost. Cutting 8,000 masks of 32 layers so costs 0.3% more layer runs."""

SWEEP_MASKS_OFFLOADED = 4096
"""The same where each sweep loads every layer from elsewhere."""

_COMPARED_SEQUENCES = 2
"""Sequences on which both forwards are compared: a batch, and not more. On ten the comparison took 5 s of the 29 s that
24 masks of SmolLM2 take, on two it takes 1.4 s."""

_TOLERANCE = 1e-4
_TOLERANCE_HALF = 2e-2
"""Largest difference of both forwards, in nats per token (relative above 1), in float32 and in half precision."""


class Engine:
    """Measures masked models on a calibration set.

    Parameters
    ----------
    model : nn.Module
        Causal language model; its parameters are only read.
    stack : LayerStack or SublayerStack
        The players: its layers or their sublayers.
    calibration : Calibration
        Tokens to score.
    statistics : tuple of {'nll', 'kl', 'hits'}
        What to measure per scored token.
    settings : EngineSettings
        Batch and memory limits.
    always_kept : collection of int
        Layers without which the model itself can't run; the comparison of both forwards keeps them.

    Attributes
    ----------
    settings : EngineSettings
        With what depends on the model.
    note : str
        Why the plain path serves, or what the fused one wasn't checked for; else ''.
    """

    def __init__(
        self,
        model: nn.Module,
        stack: Players,
        calibration: Calibration,
        statistics: tuple[Statistic, ...],
        settings: EngineSettings,
        *,
        always_kept: Collection[int] = (),
    ) -> None:
        self.model = model
        self.stack = stack
        self.statistics = statistics
        # Hits of a few tokens can agree by chance: both forwards are compared by their NLL then.
        self._measured = ("hits", "nll") if set(statistics) == {"hits"} else statistics
        self.settings = settings.for_model(model, stack)
        self.tokens = Tokens.of(calibration, input_device(model), settings.batch_tokens)
        self.note = ""
        self._always_kept = list(always_kept)
        self._sweep_masks = SWEEP_MASKS_OFFLOADED if any_offloaded(stack) else SWEEP_MASKS

    @property
    def path(self) -> str:
        """'fused' or 'plain'."""
        return "fused" if isinstance(self.forward, FusedForward) else "plain"

    def plan(self, masks_ML: MaskArray) -> PrefixPlan:
        """The sweeps that `run` takes one by one."""
        dense_states = int(needs_dense(self.statistics))  # the dense model's final state waits for the head
        max_states = self.settings.memory_budget // self.forward.state_bytes - dense_states
        return plan(masks_ML, max_masks=self._sweep_masks, max_states=max_states)

    def layer_runs(self, masks_UL: MaskArray) -> int:
        """Layer runs that `run` needs for these masks."""
        return self.forward.layer_runs(masks_UL)

    def run(self, masks_UL: MaskArray, progress: Progress) -> dict[Statistic, FloatArray]:
        """Statistics [U, S] of distinct, sorted masks [U, L] of one sweep."""
        forward = self.forward
        with self.inference():
            found = forward.run(masks_UL, progress)
        return {name: found[name][:, self.tokens.place_S] for name in self.statistics}

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Without gradients and dropout; the model's modes come back afterwards."""
        with torch.inference_mode(), evaluation_mode(self.model), shapes_only(self.model):
            yield

    @cached_property
    def forward(self) -> Forward:
        """The forward that serves this model."""
        inputs = self.tokens.blocks[0].inputs
        if inputs:
            self.note = f"the calibration has inputs beside tokens ({', '.join(inputs)})"
            return self._plain(self.tokens)
        with self.inference():
            try:
                fused = self._fused()
                if on_meta_device(self.model):
                    self.note = "taken for granted: on the meta device the two forwards can't be compared"
                    return fused
                if self._agrees(fused):
                    return fused
            except (TypeError, RuntimeError, IndexError, KeyError) as error:
                self.note = f"layers can't be replayed ({type(error).__name__}: {error})"
        return self._plain(self.tokens)

    def _plain(self, tokens: Tokens) -> PlainForward:
        return PlainForward(self.model, self.stack, tokens, self._measured, self.settings)

    def _fused(self) -> FusedForward:
        fused = FusedForward(self.model, self.stack, self.tokens, self._measured, self.settings)
        short = self.settings.memory_budget < 2 * self._sweep_masks * fused.state_bytes
        if short and any_offloaded(self.stack) and self.tokens.ids_ST.device.type != "cpu":
            self.settings = fused.settings = self.settings.with_states_on_the_host()
        return fused

    def _agrees(self, fused: FusedForward) -> bool:
        """Compare with the plain forward on three masks and two sequences: a model whose layers pass more than they
        show would differ here.
        """
        n_players = len(self.stack)
        half_L = np.random.default_rng(0).permutation(n_players) % 2 == 0
        masks_3L = np.stack([np.ones(n_players, dtype=bool), half_L, ~half_L])
        masks_3L[:, self._always_kept] = True
        masks_UL = distinct(masks_3L)
        few = self.tokens.first(_COMPARED_SEQUENCES)
        found = fused.on(few).run(masks_UL, _ignore)
        expected = self._plain(few).run(masks_UL, _ignore)
        half = next(iter(self.model.parameters())).dtype in (torch.float16, torch.bfloat16)
        tolerance = _TOLERANCE_HALF if half else _TOLERANCE
        tokens_B = (few.blocks[0].labels_BT != IGNORE).sum(dim=1).cpu().numpy()
        for name in self._measured:
            if name == "hits":
                continue
            gap = np.abs(found[name] - expected[name]) / np.maximum(tokens_B, 1)
            scale = 1 + np.abs(expected[name]) / np.maximum(tokens_B, 1)
            both_bad = ~np.isfinite(found[name]) & ~np.isfinite(expected[name])
            if not bool(np.all((gap <= tolerance * scale) | both_bad)):
                self.note = f"replayed layers differ from the model's forward by {np.nanmax(gap):.1e} nats per token"
                return False
        return True


def _ignore(work: float) -> None:
    """No progress bar."""

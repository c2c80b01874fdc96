"""The fused forward: level by level, each state that keeps a layer passes through it, then the head in chunks.

A layer call takes the state of one coalition on one block of sequences, never several: so its shape, and with it every
bit of a score, depends on model, text and mask alone, whatever else is evaluated beside the mask. (Matrix products of
other shapes round otherwise: joining four states of 512 tokens moved scores of a 135M model in bfloat16 by 0.3%, for 7%
and 26% less CPU time in two timings; at 1,024 tokens joining two gained nothing clear.)

Shapes: U masks of a sweep, G states (distinct prefixes) at a depth, S calibration sequences, B sequences of a block,
T tokens, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import numpy as np
from torch import Tensor, nn

from layershap.calibration import IGNORE
from layershap.forward.base import Forward
from layershap.forward.head import bytes_of_a_logit, needs_dense, sequence_sums
from layershap.forward.offload import layer_loaded
from layershap.forward.plan import Level, Sweep, make_sweep
from layershap.forward.replay import Replay
from layershap.forward.settings import Block, EngineSettings, Progress, Tokens, empty_sums
from layershap.forward.state import State
from layershap.model.io import vocabulary_size, weights_precision
from layershap.model.sublayers import Players
from layershap.protocols import FloatArray, MaskArray, Statistic


class FusedForward(Forward):
    """Measures masked models by replaying their layers; parameters as for `Forward`.

    Parameters
    ----------
    replay : Replay, optional
        What was observed of the layers' calls before, on other tokens.
    """

    def __init__(
        self,
        model: nn.Module,
        stack: Players,
        tokens: Tokens,
        statistics: tuple[Statistic, ...],
        settings: EngineSettings,
        *,
        replay: Replay | None = None,
    ) -> None:
        super().__init__(model, stack, tokens, statistics, settings)
        self._replay = Replay(model, stack, tokens.ids_ST) if replay is None else replay
        self._captures = [self._replay.capture(block.ids_BT) for block in tokens.blocks]
        if not needs_dense(statistics):
            for capture in self._captures:
                capture.final = None
        self._device = tokens.ids_ST.device
        vocabulary = vocabulary_size(model) or 1
        token_bytes = vocabulary * bytes_of_a_logit(statistics, weights_precision(model))
        self._head_tokens = max(1, settings.head_bytes // token_bytes)

    @property
    def state_bytes(self) -> int:
        """Memory of one state on the whole calibration set."""
        return sum(capture.first.n_bytes for capture in self._captures)

    def layer_runs(self, masks_UL: MaskArray) -> int:
        """Layer runs that `run` needs for distinct, sorted masks [U, L]."""
        return make_sweep(masks_UL).layer_runs

    def run(self, masks_UL: MaskArray, progress: Progress, n_blocks: int | None = None) -> dict[Statistic, FloatArray]:
        """Statistics [U, S] of distinct, sorted masks [U, L] of one sweep, on the first blocks or all."""
        blocks = range(len(self._captures))[:n_blocks]
        states = self._final_states(make_sweep(masks_UL), blocks, progress)
        return self._heads(states, blocks, progress)

    def first_states(self) -> list[State]:
        """The state of each block before the first layer."""
        return [capture.first for capture in self._captures]

    def advance(self, player: int, block: int, state: State) -> State:
        """One player on the state of one block; gradients must be off."""
        return self._replay.run_player(player, state.to(self._device), self._captures[block])

    def last_sums(self, states: list[State]) -> dict[Statistic, FloatArray]:
        """Statistics [S] of the states of all blocks after the last layer, in the order of the blocks' sequences."""
        found = self._heads([states], range(len(self._captures)), lambda work: None)
        return {name: value_US[0] for name, value_US in found.items()}

    def on(self, tokens: Tokens) -> FusedForward:
        """The forward on other tokens, without observing the layers' calls anew."""
        return FusedForward(self.model, self.stack, tokens, self.statistics, self.settings, replay=self._replay)

    def probe_player(self, player: int) -> None:
        """Run one player on one state of the first block, for timing and counting."""
        self._replay.run_player(player, self._captures[0].first, self._captures[0])

    def probe_head(self) -> None:
        """Run the head on one state of the first block, for timing and counting."""
        self._heads([[self._captures[0].first]], range(1), lambda work: None)

    # -- layers ------------------------------------------------------------------------------------------------------

    def _final_states(self, sweep: Sweep, blocks: Sequence[int], progress: Progress) -> list[list[State]]:
        # states[g][b]: distinct prefix g on block b. A skipped layer shares its parent's tensors.
        states = [[self.stored(self._captures[b].first) for b in blocks]]
        for player, level in enumerate(sweep.levels):
            following = self._skipped(player, states, level)
            runs = np.flatnonzero(level.runs_G)
            with layer_loaded(self.stack.layers[self.stack.layer_of(player)]) if len(runs) else nullcontext():
                for g in runs:
                    before = zip(blocks, states[level.parent_G[g]], strict=True)
                    following[g] = [self.stored(self.advance(player, b, state)) for b, state in before]
                    progress(1.0)
            states = following
        return states

    def _skipped(self, player: int, states: list[list[State]], level: Level) -> list[list[State]]:
        """The states after a player, where they skip it; the others' places hold what it will run on."""
        scales = self.stack.skip_scales
        if scales is None:
            return [states[parent] for parent in level.parent_G]
        return [
            states[parent] if runs else [state.scaled(scales[player]) for state in states[parent]]
            for parent, runs in zip(level.parent_G, level.runs_G, strict=True)
        ]

    def stored(self, state: State) -> State:
        """The state where it waits for its next layer: on the host, if the device can't hold a sweep's states."""
        return state if self.settings.state_device is None else state.to(self.settings.state_device)

    # -- head --------------------------------------------------------------------------------------------------------

    def _heads(
        self, states: list[list[State]], blocks: Sequence[int], progress: Progress
    ) -> dict[Statistic, FloatArray]:
        sums = empty_sums(self.statistics, len(states), sum(len(self._captures[b].ids_BT) for b in blocks))
        column = 0
        with self._replay.head() as head:
            for position, b in enumerate(blocks):
                rows = len(self._captures[b].ids_BT)
                columns = slice(column, column + rows)
                of_block = [state[position] for state in states]
                for window in self._windows(self.tokens.blocks[b]):
                    self._head_on_window(head, of_block, b, window, {n: v[:, columns] for n, v in sums.items()})
                column += rows
                progress(self.settings.head_cost * len(states) / len(blocks))
        return sums

    def _head_on_window(
        self,
        head: Callable[[State, Tensor], Tensor],
        states: list[State],
        block: int,
        window: slice | None,
        sums: dict[Statistic, FloatArray],
    ) -> None:
        """Add the statistics of some tokens of a block, for all states, to `sums` [U, B]."""
        capture = self._captures[block]
        ids_BT = _cut(capture.ids_BT, window)
        labels_BT = _cut(self.tokens.blocks[block].labels_BT, window)
        if not bool((labels_BT != IGNORE).any()):
            return
        dense = None if capture.final is None else head(_window(capture.final, window), ids_BT)
        for u, state in enumerate(states):
            # Logits have no name here: those of the last state would live on while the next are computed.
            found = sequence_sums(
                head(_window(state, window).to(self._device), ids_BT), labels_BT, self.statistics, dense
            )
            for name, value_B in found.items():
                sums[name][u] += value_B.cpu().numpy()

    def _windows(self, block: Block) -> Iterator[slice | None]:
        """The scored tokens of a block, cut where even one state's logits exceed a chunk; None is the whole block."""
        rows, length = block.ids_BT.shape
        size = max(1, self._head_tokens // rows)
        first = block.first_scored
        if not self._replay.sliceable or (first == 0 and size >= length):
            yield None
            return
        for start in range(first, length, size):
            yield slice(start, min(start + size, length))


def _cut(tensor_BT: Tensor, window: slice | None) -> Tensor:
    return tensor_BT if window is None else tensor_BT[:, window]


def _window(state: State, window: slice | None) -> State:
    return state if window is None else State(_cut(state.hidden, window), state.carried)

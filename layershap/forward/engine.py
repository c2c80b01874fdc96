"""Runs a plan: level by level, all states that keep a layer pass through it concatenated, within a memory budget.

Two paths give the same numbers: the fused one (replayed layers) and the plain one (the whole model with layers skipped,
one mask at a time), which serves models whose layers can't be replayed. Which one serves is decided by comparing both
on the model at hand.

Shapes: U masks of a sweep, S calibration sequences, B sequences of a block, T tokens, R states concatenated,
V vocabulary, L layers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from layershap.calibration import IGNORE, Calibration
from layershap.forward.head import sequence_sums, shifted_labels
from layershap.forward.offload import held, is_offloaded
from layershap.forward.plan import PrefixPlan, Sweep, distinct, make_sweep, plan
from layershap.forward.replay import Capture, Replay, ReplayError
from layershap.model_io import evaluation_mode, input_device, token_logits, vocabulary_size
from layershap.protocols import FloatArray, MaskArray, Statistic
from layershap.stack import LayerStack, skip_layers

Progress = Callable[[float], None]
"""Called with work done since the last call, in layer runs."""

_SWEEP_MASKS = 128
"""Masks of a sweep: what an interruption may cost. Cutting 8,000 masks of 32 layers so costs 1% more layer runs."""

_HEAD_BYTES = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}
"""Logits held at once, in float32 bytes."""


@dataclass(frozen=True)
class EngineSettings:
    """What may change the last bits of a result, resolved to numbers so that a ledger can record them.

    Attributes
    ----------
    batch_tokens : int
        Most tokens that pass through a layer in one call (one block of one state at least).
    memory_budget : int
        Bytes for hidden states.
    """

    batch_tokens: int
    memory_budget: int

    @classmethod
    def resolve(cls, batch_tokens: int | str, memory_budget: int | str, device: torch.device) -> EngineSettings:
        """Turn 'auto' into numbers that depend on the machine's size only, never on its load or on timing."""
        for name, value in (("batch_tokens", batch_tokens), ("memory_budget", memory_budget)):
            if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a positive int or 'auto', got {value!r}")
        if device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
        else:
            total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        tokens = {"cuda": 16384}.get(device.type, 2048)
        return cls(
            tokens if batch_tokens == "auto" else int(batch_tokens),
            total // 4 if memory_budget == "auto" else int(memory_budget),
        )


class Engine:
    """Measures masked models on a calibration set.

    Parameters
    ----------
    model : nn.Module
        Causal language model; its parameters are only read.
    stack : LayerStack
        Its layers.
    calibration : Calibration
        Tokens to score.
    statistics : tuple of {'nll', 'kl', 'hits'}
        What to measure per scored token.
    settings : EngineSettings
        Batch and memory limits.
    always_kept : collection of int
        Layers without which the model itself can't run; the comparison of both paths keeps them.

    Attributes
    ----------
    note : str
        Why the plain path serves; '' while the fused one does.
    """

    def __init__(
        self,
        model: nn.Module,
        stack: LayerStack,
        calibration: Calibration,
        statistics: tuple[Statistic, ...],
        settings: EngineSettings,
        always_kept: Collection[int] = (),
    ) -> None:
        self.model = model
        self.stack = stack
        self.statistics = statistics
        self.settings = settings
        self._always_kept = list(always_kept)
        self.note = ""
        self.device = input_device(model)
        self._ids_ST = calibration.ids_ST.to(self.device)
        self._labels_ST = shifted_labels(calibration.labels_ST).to(self.device)
        self._sweep_masks = 8 * _SWEEP_MASKS if any(map(is_offloaded, stack.layers)) else _SWEEP_MASKS
        rows = max(1, settings.batch_tokens // calibration.seq_len)
        self._blocks = [slice(start, start + rows) for start in range(0, calibration.n_sequences, rows)]
        self._captures: list[Capture] = []

    @property
    def path(self) -> str:
        """'fused' or 'plain'."""
        return "plain" if self._replay is None else "fused"

    def plan(self, masks_ML: MaskArray) -> PrefixPlan:
        """The sweeps that `run` takes one by one."""
        return plan(masks_ML, max_masks=self._sweep_masks, max_states=self._max_states)

    @cached_property
    def head_cost(self) -> float:
        """Cost of the head on one state, in layer runs: the ratio of their weights."""
        embeddings = getattr(self.model, "get_output_embeddings", lambda: None)()
        head = sum(p.numel() for p in embeddings.parameters()) if isinstance(embeddings, nn.Module) else 0
        layers = sum(p.numel() for layer in self.stack.layers for p in layer.parameters())
        return head * len(self.stack) / max(layers, 1)

    @property
    def _max_states(self) -> int:
        """Hidden states, on the whole calibration set, that the budget allows; the plain path holds none."""
        state_bytes = sum(c.first.numel() * c.first.element_size() for c in self._captures) if self._replay else 1
        return max(2, self.settings.memory_budget // state_bytes)

    @cached_property
    def _replay(self) -> Replay | None:
        with self._inference():
            try:
                replay = Replay(self.model, self.stack, self._ids_ST)
                self._captures = [replay.capture(self._ids_ST[block]) for block in self._blocks]
                if self._agrees(replay):
                    return replay
            except (ReplayError, TypeError, RuntimeError, IndexError, KeyError) as error:
                self.note = f"layers can't be replayed ({type(error).__name__}: {error})"
            self._captures = []
            return None

    def _agrees(self, replay: Replay) -> bool:
        """Compare both paths on three masks and the first sequences: a model whose layers pass more than they show
        (carried state) would differ here.
        """
        n_layers = len(self.stack)
        half_L = np.random.default_rng(0).permutation(n_layers) % 2 == 0
        masks_3L = np.stack([np.ones(n_layers, dtype=bool), half_L, ~half_L])
        masks_3L[:, self._always_kept] = True
        masks_UL = distinct(masks_3L)
        block = self._blocks[0]
        fused = self._run_fused(replay, make_sweep(masks_UL), [0], lambda work: None)
        plain = self._run_plain(masks_UL, [block], lambda work: None)
        half = next(iter(self.model.parameters())).dtype in (torch.float16, torch.bfloat16)
        tolerance = 2e-2 if half else 1e-4
        tokens_B = (self._labels_ST[block] != IGNORE).sum(dim=1).cpu().numpy()
        for name in self.statistics:
            if name == "hits":
                continue
            gap = np.abs(fused[name] - plain[name]) / np.maximum(tokens_B, 1)
            scale = 1 + np.abs(plain[name]) / np.maximum(tokens_B, 1)
            both_bad = ~np.isfinite(fused[name]) & ~np.isfinite(plain[name])
            if not bool(np.all((gap <= tolerance * scale) | both_bad)):
                self.note = f"replayed layers differ from the model's forward by {np.nanmax(gap):.1e} nats per token"
                return False
        return True

    def layer_runs(self, masks_UL: MaskArray) -> int:
        """Layer runs that `run` needs for these masks."""
        return int(masks_UL.sum()) if self._replay is None else make_sweep(masks_UL).layer_runs

    def run(self, masks_UL: MaskArray, progress: Progress) -> dict[Statistic, FloatArray]:
        """Statistics [U, S] of distinct, sorted masks [U, L] of one sweep, on whichever path serves."""
        with self._inference():
            if self._replay is None:
                return self._run_plain(masks_UL, self._blocks, progress)
            return self._run_fused(self._replay, make_sweep(masks_UL), list(range(len(self._blocks))), progress)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        with torch.inference_mode(), evaluation_mode(self.model):
            yield

    # -- the fused path ----------------------------------------------------------------------------------------------

    def _run_fused(
        self, replay: Replay, sweep: Sweep, blocks: list[int], progress: Progress
    ) -> dict[Statistic, FloatArray]:
        # states[g][b]: hidden states of distinct prefix g on block b. A skipped layer shares its parent's tensors.
        states: list[list[Tensor]] = [[self._captures[b].first for b in blocks]]
        for layer, level in enumerate(sweep.levels):
            runs = np.flatnonzero(level.runs_G)
            following: list[list[Tensor]] = [states[parent] for parent in level.parent_G]
            if len(runs):
                with held(self.stack.layers[layer]):
                    for group in self._groups(runs, blocks):
                        for g in group:
                            following[g] = []
                        for position, b in enumerate(blocks):
                            inputs = [states[level.parent_G[g]][position] for g in group]
                            outputs = self._layer(replay, layer, inputs, self._captures[b])
                            for g, output in zip(group, outputs, strict=True):
                                following[g].append(output)
                        progress(float(len(group)))
            states = following
        for capture in self._captures:
            capture.forget_expanded()
        return self._heads(replay, states, blocks, progress)

    def _groups(self, runs: np.ndarray, blocks: list[int]) -> Iterator[list[int]]:
        """Runs of one level in groups that fit the token budget."""
        rows = max(len(self._captures[b].ids_BT) for b in blocks)
        size = max(1, self.settings.batch_tokens // (rows * self._ids_ST.shape[1]))
        for start in range(0, len(runs), size):
            yield [int(g) for g in runs[start : start + size]]

    def _layer(self, replay: Replay, layer: int, inputs: list[Tensor], capture: Capture) -> list[Tensor]:
        if len(inputs) == 1:
            return [replay.run_layer(layer, inputs[0], capture, 1)]
        hidden = torch.cat(inputs, dim=replay.batch_dim)
        output = replay.run_layer(layer, hidden, capture, len(inputs))
        # Clones, so that one state's life doesn't keep its neighbours' memory.
        return [part.clone() for part in output.chunk(len(inputs), dim=replay.batch_dim)]

    def _heads(
        self, replay: Replay, states: list[list[Tensor]], blocks: list[int], progress: Progress
    ) -> dict[Statistic, FloatArray]:
        sums = self._empty(len(states), sum(len(self._captures[b].ids_BT) for b in blocks))
        column = 0
        with replay.head() as head:
            for position, b in enumerate(blocks):
                capture = self._captures[b]
                labels_BT = self._labels_ST[self._blocks[b]]
                rows = len(capture.ids_BT)
                for tokens in self._token_slices(replay, rows):
                    if not bool((labels_BT[:, tokens] != IGNORE).any()):
                        continue
                    dense = None
                    if "kl" in self.statistics:
                        dense = head.logits(_cut(capture.final, tokens), capture.ids_BT[:, tokens])
                    size = max(1, self._head_tokens // (rows * len(range(*tokens.indices(labels_BT.shape[1])))))
                    for start in range(0, len(states), size):
                        group = [state[position] for state in states[start : start + size]]
                        hidden = torch.cat([_cut(h, tokens) for h in group], dim=replay.batch_dim)
                        logits = head.logits(hidden, capture.ids_BT[:, tokens].repeat(len(group), 1))
                        labels_NT = labels_BT[:, tokens].repeat(len(group), 1)
                        found = sequence_sums(logits, labels_NT, self.statistics, dense)
                        for name, value_N in found.items():
                            target = sums[name][start : start + size, column : column + rows]
                            target += value_N.view(len(group), rows).cpu().numpy()
                column += rows
                progress(self.head_cost * len(states) / len(blocks))
        return sums

    def _token_slices(self, replay: Replay, rows: int) -> Iterator[slice]:
        """Cut a block along its tokens where even one state's logits exceed a chunk."""
        length = self._ids_ST.shape[1]
        size = length if not replay.sliceable else max(1, min(length, self._head_tokens // rows))
        for start in range(0, length, size):
            yield slice(start, start + size)

    @cached_property
    def _head_tokens(self) -> int:
        budget = _HEAD_BYTES.get(self.device.type, _HEAD_BYTES["cpu"])
        return max(1, budget // (4 * (vocabulary_size(self.model) or 1)))

    # -- the plain path ----------------------------------------------------------------------------------------------

    def _run_plain(self, masks_UL: MaskArray, blocks: list[slice], progress: Progress) -> dict[Statistic, FloatArray]:
        n_sequences = sum(len(self._ids_ST[block]) for block in blocks)
        sums = self._empty(len(masks_UL), n_sequences)
        for u, mask_L in enumerate(masks_UL):
            column = 0
            for block in blocks:
                ids_BT, labels_BT = self._ids_ST[block], self._labels_ST[block]
                with ExitStack() as stack:
                    dense = token_logits(self.model, ids_BT) if "kl" in self.statistics else None
                    stack.enter_context(skip_layers(self.model, np.flatnonzero(~mask_L), stack=self.stack))
                    logits = token_logits(self.model, ids_BT)
                for name, value_B in sequence_sums(logits, labels_BT, self.statistics, dense).items():
                    sums[name][u, column : column + len(ids_BT)] = value_B.cpu().numpy()
                column += len(ids_BT)
            progress(float(mask_L.sum()) + self.head_cost)
        return sums

    def _empty(self, n_masks: int, n_sequences: int) -> dict[Statistic, FloatArray]:
        return {name: np.zeros((n_masks, n_sequences)) for name in self.statistics}


def _cut(hidden: Tensor, tokens: slice) -> Tensor:
    """Hidden states [B, T, ...] at some tokens; a whole state in any layout is left as it is."""
    return hidden if tokens.start == 0 and tokens.stop >= hidden.shape[1] else hidden[:, tokens]

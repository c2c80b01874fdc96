"""What the forwards share: limits resolved to numbers, and the tokens to score in blocks.

Shapes: M masks, S calibration sequences, B sequences of a block, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from layershap.calibration import IGNORE, Calibration
from layershap.forward.head import shifted_labels
from layershap.forward.memory import host_memory
from layershap.forward.offload import is_offloaded
from layershap.inputs import Inputs, input_rows
from layershap.limits import check_int
from layershap.model.io import part_of
from layershap.model.sublayers import Players
from layershap.protocols import FloatArray, IntArray, Statistic

Progress = Callable[[float], None]
"""Called with work done since the last call, in layer runs."""

_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Tokens of one layer call. On two CPU cores a layer's time per token is lowest from 640 to 1,280 tokens, and a fifth
higher from 2,560 (D=768) or 5,120 (D=256) on, where the activations leave the cache
(`benchmarks/speed/token_budget.py`)."""

_HEAD_BYTES = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}
"""Logits held at once, in float32 bytes."""


@dataclass(frozen=True)
class EngineSettings:
    """Limits of one engine, resolved to numbers.

    Attributes
    ----------
    batch_tokens : int
        Most tokens that pass through a layer in one call (one block of one state at least).
    memory_budget : int
        Bytes for the hidden states between layers. What one layer call and one chunk of logits need comes on top.
    head_bytes : int
        Bytes of float32 logits held at once.
    head_cost : float
        Cost of the head on one state, in layer runs: the ratio of their weights.
    state_device : torch.device or None
        Where states wait between layers; None for the model's own device.
    """

    batch_tokens: int
    memory_budget: int
    head_bytes: int
    head_cost: float = 0.0
    state_device: torch.device | None = None

    @classmethod
    def resolve(cls, batch_tokens: int | str, memory_budget: int | str, device: torch.device) -> EngineSettings:
        """Turn 'auto' into numbers that depend on the machine's size only, never on its load or on timing."""
        tokens = None if batch_tokens == "auto" else check_int("batch_tokens", batch_tokens, 1, other="'auto'")
        budget = None if memory_budget == "auto" else check_int("memory_budget", memory_budget, 1, other="'auto'")
        kind = device.type if device.type in _BATCH_TOKENS else "cpu"
        if budget is None:
            total = torch.cuda.get_device_properties(device).total_memory if kind == "cuda" else host_memory()
            budget = total // 4
        return cls(_BATCH_TOKENS[kind] if tokens is None else tokens, budget, _HEAD_BYTES[kind])

    def for_model(self, model: nn.Module, stack: Players) -> EngineSettings:
        """The same with what depends on the model's weights."""
        embeddings = part_of(model, "get_output_embeddings")
        head = 0 if embeddings is None else sum(p.numel() for p in embeddings.parameters())
        layers = sum(p.numel() for layer in stack.layers for p in layer.parameters())
        return replace(self, head_cost=head * len(stack) / max(layers, 1))

    def with_states_on_the_host(self) -> EngineSettings:
        """For offloaded layers, whose loading costs more than moving states: as many as the host's memory allows."""
        return replace(self, state_device=torch.device("cpu"), memory_budget=host_memory() // 4)


@dataclass(frozen=True)
class Block:
    """Sequences that pass through a layer in one call, cut after the last token that one of them scores.

    Attributes
    ----------
    rows : slice
        Which of the sequences.
    ids_BT : Tensor [B, T]
        Token ids.
    labels_BT : Tensor [B, T]
        The token that follows each position.
    first_scored : int
        The first position at which a sequence of the block is scored: the head can begin here.
    inputs : mapping of str to Tensor
        What the model takes beside the tokens of these sequences. Where there is anything, nothing is cut.
    """

    rows: slice
    ids_BT: Tensor
    labels_BT: Tensor
    first_scored: int
    inputs: Inputs = field(default_factory=dict)


@dataclass(frozen=True)
class Tokens:
    """Calibration tokens on the model's device, longest sequences first, cut into blocks.

    Attributes
    ----------
    ids_ST : Tensor [S, T]
        Token ids.
    blocks : sequence of Block
        A block of one state fits the token budget, unless one sequence alone exceeds it.
    place_S : ndarray [S]
        Where each sequence of the calibration set is among the sorted ones.
    """

    ids_ST: Tensor
    blocks: Sequence[Block]
    place_S: IntArray

    @classmethod
    def of(cls, calibration: Calibration, device: torch.device, batch_tokens: int) -> Tokens:
        """Sort and cut a calibration set; sequences of one length keep their order.

        Sorting puts sequences of like length into one block, which is then cut to the longest: on multiple-choice
        tasks two thirds of a rectangle of tokens are padding.
        """
        lengths_S = np.maximum(calibration.lengths_S.numpy(), 2)
        if calibration.inputs:  # a value for each token may be among them
            lengths_S[:] = calibration.seq_len
        order_S = np.argsort(-lengths_S, kind="stable")
        ids_ST = calibration.ids_ST[order_S].to(device)
        inputs = {
            name: value.to(device) for name, value in input_rows(calibration.inputs, order_S, len(order_S)).items()
        }
        labels_ST = shifted_labels(calibration.labels_ST)[order_S]
        blocks = []
        start = 0
        while start < len(order_S):
            length = int(lengths_S[order_S[start]])
            rows = slice(start, min(start + max(1, batch_tokens // length), len(order_S)))
            labels_BT = labels_ST[rows, :length]
            first = int((labels_BT != IGNORE).any(dim=0).int().argmax())
            own = input_rows(inputs, rows, len(order_S))
            blocks.append(Block(rows, ids_ST[rows, :length], labels_BT.to(device), first, own))
            start = rows.stop
        return cls(ids_ST, blocks, np.argsort(order_S, kind="stable"))

    def first(self, n_sequences: int) -> Tokens:
        """The first sequences of the first block, at most so many, and nothing else."""
        block = self.blocks[0]
        ids_BT = block.ids_BT[:n_sequences]
        rows = slice(0, len(ids_BT))
        inputs = input_rows(block.inputs, rows, len(block.ids_BT))
        few = Block(rows, ids_BT, block.labels_BT[rows], block.first_scored, inputs)
        return Tokens(self.ids_ST[: len(ids_BT)], [few], np.arange(len(ids_BT)))

    @property
    def n_tokens(self) -> int:
        """Tokens of all blocks, what padding is left included."""
        return sum(block.ids_BT.numel() for block in self.blocks)


def any_offloaded(stack: Players) -> bool:
    """Whether some layers' weights live elsewhere until their call."""
    return any(map(is_offloaded, stack.layers))


def empty_sums(statistics: Sequence[Statistic], n_masks: int, n_sequences: int) -> dict[Statistic, FloatArray]:
    """Zeros [M, S] for each statistic."""
    return {name: np.zeros((n_masks, n_sequences)) for name in statistics}

"""What evaluating masks will cost, told before it runs: layer runs, FLOPs, memory, and after a short timing seconds.

Shapes: M masks, P players (layers or sublayers).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from layershap.forward.engine import Engine
from layershap.forward.fused import FusedForward
from layershap.forward.head import needs_dense
from layershap.model.skeleton import on_meta_device
from layershap.protocols import FloatArray, IntArray, MaskArray
from layershap.tables import html_lines


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))


_CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
"""torch counts the attention kernels of GPUs only."""


@dataclass(frozen=True)
class CostEstimate:
    """Expected cost of evaluating masks. A layer run is one layer on the whole calibration set once.

    Every field but `further` is about these masks alone, without the final choice; the totals add `further`.

    Attributes
    ----------
    n_masks : int
        Number of masks asked for.
    n_distinct : int
        Number of distinct masks, each evaluated once: also the number of head runs.
    layer_runs : int
        Number of layer runs on the forward that serves, where shared prefixes run once.
    layer_runs_one_by_one : int
        Number of layer runs if each mask asked for were run alone, its removed layers skipped.
    layer_runs_zeroed : int
        Number of layer runs if each mask asked for were run with its removed layers' weights set to zero, as in the
        paper's code.
    flops : float
        Number of floating-point operations of matrix products and attention, counted on one run of each kind of layer.
    peak_bytes : int
        Bytes of hidden states and one chunk of logits, beyond the model's own memory and the working memory of one
        layer call.
    seconds : float or None
        Seconds, from timing one run of each kind of layer and one of the head on the first block of sequences. None for
        a model on the meta device, which can't be timed.
    path : {'fused', 'plain'}
        Forward that serves.
    n_players : int
        Number of players P.
    n_tokens : int
        Number of tokens of the calibration set.
    further : tuple of CostEstimate
        Cost of `LayerPruner.fit` on further parts of the calibration text, part by part: the sets that are still in the
        race, and the final choice.
    """

    n_masks: int
    n_distinct: int
    layer_runs: int
    layer_runs_one_by_one: int
    layer_runs_zeroed: int
    flops: float
    peak_bytes: int
    seconds: float | None
    path: str
    n_players: int
    n_tokens: int
    further: tuple[CostEstimate, ...] = ()

    @property
    def forwards_saved(self) -> float:
        """Number of whole forwards saved against one mask at a time with its layers skipped."""
        return (self.layer_runs_one_by_one - self.layer_runs) / self.n_players

    @property
    def layer_run_tokens(self) -> int:
        """Layer runs x tokens, further parts of the text included."""
        return self.layer_runs * self.n_tokens + sum(part.layer_run_tokens for part in self.further)

    @property
    def total_seconds(self) -> float | None:
        """Seconds, further parts of the text included; None if they aren't known."""
        total = self.seconds
        for part in self.further:
            more = part.total_seconds
            total = None if total is None or more is None else total + more
        return total

    def __str__(self) -> str:
        further = "".join(
            f"\n{part.n_distinct} of them on {part.n_tokens:,} further tokens: {part.layer_runs:,} layer runs, "
            f"{_duration(part.seconds)}"
            for part in self.further
        )
        whole = f"in all {_duration(self.total_seconds)}; on the first {self.n_tokens:,} tokens:\n" if further else ""
        return whole + (
            f"{self.n_masks} masks ({self.n_distinct} distinct), {self.path} path: {self.layer_runs:,} layer runs "
            f"(one mask at a time {self.layer_runs_one_by_one:,}, zeroed {self.layer_runs_zeroed:,}), "
            f"{self.flops:.2e} FLOPs, {self.peak_bytes / 2**20:,.0f} MiB of states and logits, "
            f"{_duration(self.seconds)}{further}"
        )

    def _repr_html_(self) -> str:
        return html_lines(str(self))


def _duration(seconds: float | None) -> str:
    return "seconds unknown on the meta device" if seconds is None else f"about {seconds:,.0f} s"


@dataclass(frozen=True)
class _Unit:
    """Cost of one run of each player [P] and of the head, on one block."""

    players_P: FloatArray
    head: float

    def total(self, runs_P: IntArray, heads: int) -> float:
        return float(runs_P @ self.players_P + heads * self.head)


def estimate_cost(engine: Engine, calls: Sequence[MaskArray]) -> CostEstimate:
    """Plan the evaluation of masks and measure what one run of each kind of layer takes.

    Parameters
    ----------
    engine : Engine
        Decides on its path first, if it has not yet.
    calls : sequence of ndarray [M, P] of bool
        Masks in any order, duplicates allowed. What the masks of a call share runs once; what two calls share, twice.
    """
    plans = [engine.plan(masks_MP) for masks_MP in calls]
    forward = engine.forward
    with engine.inference():
        seconds, flops = _fused_units(engine, forward) if isinstance(forward, FusedForward) else _plain_units(engine)
    fused = isinstance(forward, FusedForward)
    none_P = np.zeros(calls[0].shape[1], dtype=np.int64)
    if fused:
        runs_P = sum((plan.runs_L for plan in plans), none_P)
    else:
        runs_P = sum((sweep.masks_UL.sum(axis=0) for plan in plans for sweep in plan.sweeps), none_P)
    n_distinct = sum(plan.n_masks for plan in plans)
    n_blocks = engine.tokens.n_tokens / engine.tokens.blocks[0].ids_BT.numel()
    peak_states = max((plan.peak_states for plan in plans), default=1) + needs_dense(engine.statistics)
    states = peak_states * forward.state_bytes if fused else 0
    return CostEstimate(
        n_masks=sum(plan.n_requested for plan in plans),
        n_distinct=n_distinct,
        layer_runs=int(runs_P.sum()),
        layer_runs_one_by_one=sum(int(masks_MP.sum()) for masks_MP in calls),
        layer_runs_zeroed=sum(masks_MP.size for masks_MP in calls),
        flops=n_blocks * flops.total(runs_P, n_distinct),
        peak_bytes=states + engine.settings.head_bytes,
        seconds=None if on_meta_device(engine.model) else n_blocks * seconds.total(runs_P, n_distinct),
        path=engine.path,
        n_players=calls[0].shape[1],
        n_tokens=engine.tokens.ids_ST.numel(),
    )


def _fused_units(engine: Engine, forward: FusedForward) -> tuple[_Unit, _Unit]:
    """Seconds and FLOPs; layers of one class and size are measured once."""
    kinds: dict[tuple[object, ...], tuple[float, float]] = {}
    found = []
    for player in range(len(engine.stack)):
        layer = engine.stack.layers[engine.stack.layer_of(player)]
        kind = (type(layer), sum(p.numel() for p in layer.parameters()), engine.stack.kind_of(player))
        if kind not in kinds:
            kinds[kind] = _measured(partial(forward.probe_player, player), engine)
        found.append(kinds[kind])
    head_seconds, head_flops = _measured(forward.probe_head, engine)
    seconds_P, flops_P = np.array(found).T
    return _Unit(seconds_P, head_seconds), _Unit(flops_P, head_flops)


def _plain_units(engine: Engine) -> tuple[_Unit, _Unit]:
    """Seconds and FLOPs of a whole forward, shared out by weight."""
    n_players = len(engine.stack)
    full = np.ones((1, n_players), dtype=bool)
    measured = _measured(lambda: engine.forward.run(full, lambda work: None, n_blocks=1), engine)
    share = 1 / (n_players + engine.settings.head_cost)
    units = [_Unit(np.full(n_players, value * share), value * share * engine.settings.head_cost) for value in measured]
    return units[0], units[1]


def _measured(run: Callable[[], object], engine: Engine) -> tuple[float, float]:
    """Seconds (the better of two, after a first run that warms up) and FLOPs of a call."""
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        run()
    seconds = []
    for _ in range(2):
        _synchronize(engine.tokens.ids_ST.device)
        start = time.perf_counter()
        run()
        _synchronize(engine.tokens.ids_ST.device)
        seconds.append(time.perf_counter() - start)
    return min(seconds), float(counter.get_total_flops())


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

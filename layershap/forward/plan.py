"""Masks -> prefix plan: what to run, in which order, what is shared. Pure NumPy; knows nothing of models.

Two masks that agree on their first l layers have the same hidden state after layer l, so the masks form a binary trie
and each of its edges "layer l runs on this state" is computed once. Sorted lexicographically, any contiguous slice of
the masks shares its prefixes: slices ("sweeps") bound the memory.

Shapes: L layers, M masks, U distinct masks of a sweep, G states (distinct prefixes) at a depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from layershap.masks import distinct
from layershap.protocols import IntArray, MaskArray


@dataclass(frozen=True)
class Level:
    """One depth of the trie: from the states before layer l to the states after it.

    Attributes
    ----------
    parent_G : ndarray [G]
        For each state after the layer, the state before it.
    runs_G : ndarray [G] of bool
        True if the layer runs on it, False if it is skipped (the state is then the parent's, unchanged).
    """

    parent_G: IntArray
    runs_G: MaskArray

    @property
    def n_states(self) -> int:
        """States after the layer, G."""
        return len(self.parent_G)

    @property
    def n_runs(self) -> int:
        """Layer runs at this depth."""
        return int(self.runs_G.sum())


@dataclass(frozen=True)
class Sweep:
    """Distinct masks evaluated together, level by level.

    Attributes
    ----------
    masks_UL : ndarray [U, L] of bool
        Sorted lexicographically, no duplicates.
    levels : tuple of Level
        L of them. State u after the last is the final state of mask u.
    """

    masks_UL: MaskArray
    levels: tuple[Level, ...]

    @property
    def n_masks(self) -> int:
        """Number of distinct masks U."""
        return len(self.masks_UL)

    @property
    def layer_runs(self) -> int:
        """Layer runs of the sweep."""
        return sum(level.n_runs for level in self.levels)

    @property
    def peak_states(self) -> int:
        """Most states alive at once: the root, which is kept for other sweeps, and while a level runs those before and
        after it.
        """
        kept = np.flatnonzero(self.masks_UL[0])
        leaves_root = kept[0] if len(kept) else len(self.levels)
        peak = before = 1
        for depth, level in enumerate(self.levels):
            # A skipping state shares its parent's memory, so only runs add to what was there.
            peak = max(peak, before + int(depth > leaves_root) + level.n_runs)
            before = level.n_states
        return peak


@dataclass(frozen=True)
class PrefixPlan:
    """All sweeps for a list of masks, and what they cost; known before anything runs.

    Attributes
    ----------
    n_layers : int
        Number of layers L.
    sweeps : tuple of Sweep
        In lexicographic order of their masks.
    n_requested : int
        Masks asked for, duplicates included.
    """

    n_layers: int
    sweeps: tuple[Sweep, ...]
    n_requested: int

    @property
    def n_masks(self) -> int:
        """Distinct masks, which is also the number of head runs."""
        return sum(sweep.n_masks for sweep in self.sweeps)

    @property
    def runs_L(self) -> IntArray:
        """Runs of each layer with shared prefixes [L]."""
        runs = [[level.n_runs for level in sweep.levels] for sweep in self.sweeps]
        return np.array(runs, dtype=np.int64).reshape(-1, self.n_layers).sum(axis=0)

    @property
    def layer_runs(self) -> int:
        """Layer runs (one layer on the calibration set once) with shared prefixes."""
        return sum(sweep.layer_runs for sweep in self.sweeps)

    @property
    def layer_runs_one_by_one(self) -> int:
        """Layer runs if each distinct mask were run alone, skipping its removed layers."""
        return sum(int(sweep.masks_UL.sum()) for sweep in self.sweeps)

    @property
    def peak_states(self) -> int:
        """Most hidden states alive at once."""
        return max((sweep.peak_states for sweep in self.sweeps), default=1)


def plan(masks_ML: MaskArray, *, max_masks: int, max_states: int) -> PrefixPlan:
    """Plan the evaluation of masks [M, L].

    Parameters
    ----------
    masks_ML : ndarray [M, L] of bool
        In any order, duplicates allowed.
    max_masks : int
        Most distinct masks in one sweep: what an interruption may cost.
    max_states : int
        Most hidden states alive at once: the memory budget. A single mask needs three (the root, a layer's input and
        its output), whatever the budget.
    """
    masks_UL = distinct(masks_ML)
    sweeps = tuple(make_sweep(part) for part in _cut(masks_UL, max_masks, max_states))
    return PrefixPlan(masks_ML.shape[1], sweeps, len(masks_ML))


def shards(masks_UL: MaskArray, n_shards: int, head_cost: float = 0.0) -> list[slice]:
    """Cut distinct, sorted masks [U, L] into contiguous shards of about equal work.

    Parameters
    ----------
    masks_UL : ndarray [U, L] of bool
        Distinct and sorted lexicographically.
    n_shards : int
        How many; the last are empty where there are fewer masks.
    head_cost : float
        Cost of the head on one state, in layer runs.

    Returns
    -------
    list of slice
        The largest shard is as small as contiguous ones allow. A shard shares no prefix with the one before it.
    """
    n_masks, n_layers = masks_UL.shape
    if n_shards == 1:
        return [slice(0, n_masks)]
    # A mask runs what it keeps from its fork on; the first of a shard runs all that it keeps.
    alone_U = masks_UL.sum(axis=1) + head_cost
    beyond_fork = np.arange(n_layers) >= _fork_depths(masks_UL)[:, None]
    shared_U = (masks_UL & beyond_fork).sum(axis=1) + head_cost

    def ends(most: float) -> list[int]:
        """Where shards end that each hold as many masks as cost no more than `most`."""
        found, work = [], np.inf
        for u in range(n_masks):
            work += shared_U[u]
            if work > most:
                found.append(u)
                work = alone_U[u]
        return [*found[1:], n_masks]

    low, high = float(alone_U.max(initial=0.0)), float(alone_U.sum())
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if len(ends(middle)) <= n_shards else (middle, high)
    cuts = [0, *ends(high)]
    cuts += [n_masks] * (n_shards + 1 - len(cuts))
    return [slice(start, stop) for start, stop in pairwise(cuts)]


def make_sweep(masks_UL: MaskArray) -> Sweep:
    """The trie of masks that are distinct and sorted lexicographically."""
    n_masks, n_layers = masks_UL.shape
    fork_U = _fork_depths(masks_UL)
    states_U = np.zeros(n_masks, dtype=np.int64)
    levels = []
    for layer in range(n_layers):
        # A new state starts at each mask that differs from the one before it somewhere in layers 0..layer.
        starts_U = fork_U <= layer
        starts_U[0] = True
        first_G = np.flatnonzero(starts_U)
        levels.append(Level(states_U[first_G], masks_UL[first_G, layer]))
        states_U = np.cumsum(starts_U) - 1
    return Sweep(masks_UL, tuple(levels))


def _fork_depths(masks_UL: MaskArray) -> IntArray:
    """For each mask, the first layer at which it differs from the mask before it [U]; L for the first mask."""
    n_masks, n_layers = masks_UL.shape
    depths = np.full(n_masks, n_layers, dtype=np.int64)
    if n_masks > 1:
        depths[1:] = np.argmax(masks_UL[1:] != masks_UL[:-1], axis=1)
    return depths


def _cut(masks_UL: MaskArray, max_masks: int, max_states: int) -> Iterator[MaskArray]:
    """Contiguous slices of equal size, each within both limits."""
    size = min(max_masks, len(masks_UL))
    while size > 1:
        # A level can hold as many states as there are masks, and its runs on top of them.
        parts = [masks_UL[start : start + size] for start in range(0, len(masks_UL), size)]
        if all(make_sweep(part).peak_states <= max_states for part in parts):
            yield from parts
            return
        size //= 2
    for index in range(len(masks_UL)):
        yield masks_UL[index : index + 1]

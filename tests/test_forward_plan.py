"""The prefix plan against brute-force counting of distinct prefixes."""

from __future__ import annotations

import numpy as np
import pytest

from layershap.forward.plan import make_sweep, plan
from layershap.masks import distinct
from layershap.shapley import all_masks, sample_strata

UNLIMITED = 10**9


def prefixes_run(masks: np.ndarray) -> int:
    """Distinct (prefix, layer) pairs in which the layer runs."""
    return len({tuple(m[: l + 1]) for m in masks for l in range(len(m)) if m[l]})  # noqa: E741


@pytest.mark.parametrize("seed", range(5))
def test_layer_runs_are_the_distinct_prefixes_that_keep_a_layer(seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((50, 9)) < 0.7
    masks = np.concatenate([masks, masks[:10]])
    found = plan(masks, max_masks=UNLIMITED, max_states=UNLIMITED)
    assert found.layer_runs == prefixes_run(masks)
    assert found.n_masks == len(distinct(masks))
    assert found.n_requested == 60
    assert found.layer_runs_one_by_one == distinct(masks).sum()


def test_all_masks_of_twelve_layers_cost_one_run_per_coalition():
    found = plan(all_masks(12), max_masks=UNLIMITED, max_states=UNLIMITED)
    assert (found.layer_runs, found.layer_runs_one_by_one) == (4095, 24576)


def test_the_tables_row_of_pairs_of_32_layers():
    removed = np.array([(i, j) for i in range(32) for j in range(i)])
    masks = np.ones((496, 32), dtype=bool)
    masks[np.arange(496)[:, None], removed] = False
    found = plan(masks, max_masks=UNLIMITED, max_states=UNLIMITED)
    assert (found.layer_runs, found.layer_runs_one_by_one) == (5455, 14880)


@pytest.mark.parametrize(("max_masks", "max_states"), [(1, UNLIMITED), (16, UNLIMITED), (UNLIMITED, 12), (7, 3)])
def test_sweeps_respect_the_limits_and_cover_all_masks_once(max_masks, max_states):
    masks = sample_strata(10, [9, 7, 5], 90, np.random.default_rng(0))
    found = plan(masks, max_masks=max_masks, max_states=max_states)
    assert all(sweep.n_masks <= max_masks for sweep in found.sweeps)
    assert all(sweep.peak_states <= max(max_states, 3) for sweep in found.sweeps)
    assert np.array_equal(np.concatenate([sweep.masks_UL for sweep in found.sweeps]), distinct(masks))


def test_walking_the_levels_applies_each_masks_own_layers():
    masks = distinct(sample_strata(7, [5, 3, 0, 7], 30, np.random.default_rng(1)))
    states: list[tuple[int, ...]] = [()]
    for layer, level in enumerate(make_sweep(masks).levels):
        states = [
            states[parent] + ((layer,) if runs else ())
            for parent, runs in zip(level.parent_G, level.runs_G, strict=True)
        ]
    assert states == [tuple(np.flatnonzero(mask)) for mask in masks]


def test_no_masks_plan_nothing():
    found = plan(np.empty((0, 4), dtype=bool), max_masks=8, max_states=8)
    assert (found.layer_runs, found.n_masks, found.sweeps) == (0, 0, ())

"""The stratified sampler, and how `fit` asks an adaptive one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone

from layershap import LayerPruner, StratifiedSampler
from layershap.datasets import tiny_random
from layershap.protocols import AdaptiveSampler, Sampler
from layershap.samplers import strata_sizes
from layershap.samplers.distinct import draw_distinct
from tests.helpers.samplers import SpreadSampler


def rng(seed=0):
    return np.random.default_rng(seed)


def test_they_are_samplers():
    assert isinstance(StratifiedSampler(), Sampler)
    assert isinstance(SpreadSampler(), AdaptiveSampler)
    assert not isinstance(StratifiedSampler(), AdaptiveSampler)


def test_paper_strata():
    assert strata_sizes(None, 32) == [30, 27, 24, 21, 18]
    assert strata_sizes([0.5, 0.25], 8) == [4, 2]
    assert strata_sizes([7, 5], 8) == [7, 5]
    assert strata_sizes(np.array([7, 5]), 8) == [7, 5]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_fractions_of_any_precision_are_fractions(dtype):
    masks = StratifiedSampler(np.array([0.9, 0.8], dtype=dtype)).sample(10, 20, rng())
    assert set(masks.sum(axis=1)) == {9, 8}


@pytest.mark.parametrize("value", ["0.9", None, True, 0.5j])
def test_strata_that_are_no_numbers(value):
    with pytest.raises(TypeError, match=r"strata must be ints .* or floats"):
        strata_sizes([value], 8)


@pytest.mark.parametrize("strata", [[9], [1.5], [0.0], []])
def test_wrong_strata(strata):
    with pytest.raises(ValueError, match="strat"):
        strata_sizes(strata, 8)


def test_distinct_masks_are_distinct_and_leftovers_go_to_other_strata():
    masks = StratifiedSampler().sample(12, 256, rng())
    assert len(np.unique(masks, axis=0)) == len(masks) == 256
    sizes, counts = np.unique(masks.sum(axis=1), return_counts=True)
    found = dict(zip(sizes.tolist(), counts.tolist(), strict=True))
    assert found[11] == 12  # all of them: 12 choose 11
    assert max(found.values()) - min(v for k, v in found.items() if k != 11) <= 2


def test_no_more_masks_than_there_are():
    masks = StratifiedSampler([3, 4]).sample(4, 100, rng())
    assert len(masks) == 5


def test_replacement_draws_independently_with_an_equal_budget():
    masks = StratifiedSampler(replace=True).sample(12, 500, rng())
    assert len(np.unique(masks, axis=0)) < 500
    assert all((masks.sum(axis=1) == k).sum() == 100 for k in (11, 10, 9, 8, 7))


def test_leave_one_out_comes_first_and_once():
    masks = StratifiedSampler(leave_one_out=True).sample(12, 100, rng())
    assert np.array_equal(masks[:12], ~np.eye(12, dtype=bool))
    assert len(np.unique(masks, axis=0)) == 100


def test_marginals_are_uniform():
    masks = StratifiedSampler([6], replace=True).sample(12, 20_000, rng())
    assert masks.mean(axis=0) == pytest.approx(np.full(12, 0.5), abs=4 * 0.5 / np.sqrt(20_000))


def test_distinct_masks_follow_the_shares_and_avoid_what_is_taken():
    taken = ~np.eye(8, dtype=bool)
    masks = draw_distinct(8, {6: 3.0, 5: 1.0, 7: 9.0}, 24, rng(), taken)
    assert len(np.unique(np.concatenate([taken, masks]), axis=0)) == 8 + 24
    assert [(masks.sum(axis=1) == k).sum() for k in (7, 6, 5)] == [0, 18, 6]
    assert len(draw_distinct(4, {3: 1.0, 2: 1.0}, 100, rng(), taken[:0, :4])) == 4 + 6


def test_fit_asks_in_rounds_and_leaves_the_users_sampler_alone():
    sampler = SpreadSampler()
    model = tiny_random("gpt2", n_layers=5)
    ids = np.arange(144).reshape(6, 24) % 60
    pruner = LayerPruner(n_masks=24, sampler=sampler, random_state=0).fit(model, ids)
    assert pruner.diagnostics_["unbiased"] is False  # it doesn't say that its masks are uniform within a size
    assert vars(sampler) == vars(clone(sampler))

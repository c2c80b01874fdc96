"""Stratified, antithetic, subset and allocating samplers."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from sklearn.base import clone

from layershap import AllocatingSampler, AntitheticSampler, LayerPruner, StratifiedSampler, SubsetSampler
from layershap.datasets import tiny_random
from layershap.protocols import AdaptiveSampler, Sampler
from layershap.samplers import hopeless_layers, strata_sizes
from layershap.samplers.distinct import draw_distinct


def rng(seed=0):
    return np.random.default_rng(seed)


def test_they_are_samplers():
    for sampler in (AntitheticSampler(), SubsetSampler(), AllocatingSampler()):
        assert isinstance(sampler, Sampler)
    assert isinstance(AllocatingSampler(), AdaptiveSampler)
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


def test_antithetic_pairs_remove_different_layers():
    masks = AntitheticSampler([9, 7]).sample(12, 40, rng())
    first, second = masks[0::2], masks[1::2]
    assert ((~first).sum(axis=1) == (~second).sum(axis=1)).all()
    assert not (~first & ~second).any()
    assert [(masks.sum(axis=1) == k).sum() for k in (9, 7)] == [20, 20]
    assert len(AntitheticSampler([9]).sample(12, 7, rng())) == 7


def test_antithetic_pairs_halve_the_error_of_an_additive_games_mean():
    weights = rng(1).normal(size=12)

    def error(sampler):
        means = [(sampler.sample(12, 20, rng(seed)) @ weights).mean() for seed in range(400)]
        return np.std(means)

    assert error(AntitheticSampler([6])) < 0.05 * error(StratifiedSampler([6], replace=True))
    assert error(AntitheticSampler([9])) < 0.9 * error(StratifiedSampler([9], replace=True))


def test_all_subsets_up_to_a_size():
    masks = SubsetSampler(2).sample(6, 1000, rng())
    assert len(np.unique(masks, axis=0)) == len(masks) == 6 + comb(6, 2)
    cut = SubsetSampler(2).sample(6, 10, rng())
    assert list((~cut).sum(axis=1)) == [1] * 6 + [2] * 4
    with pytest.raises(ValueError, match=r"\[1, 6\]"):
        SubsetSampler(7).sample(6, 10, rng())


def test_subsets_of_sizes_that_the_budget_does_not_reach_are_not_listed():
    masks = SubsetSampler(60).sample(60, 80, rng())  # 2^60 subsets: listing them would not end
    assert list((~masks).sum(axis=1)) == [1] * 60 + [2] * 20


def test_distinct_masks_follow_the_shares_and_avoid_what_is_taken():
    taken = ~np.eye(8, dtype=bool)
    masks = draw_distinct(8, {6: 3.0, 5: 1.0, 7: 9.0}, 24, rng(), taken)
    assert len(np.unique(np.concatenate([taken, masks]), axis=0)) == 8 + 24
    assert [(masks.sum(axis=1) == k).sum() for k in (7, 6, 5)] == [0, 18, 6]
    assert len(draw_distinct(4, {3: 1.0, 2: 1.0}, 100, rng(), taken[:0, :4])) == 4 + 6


def ruined_without_layer_2(masks):
    removed = ~masks
    return np.where(removed[:, 2], 0.01, 1 - removed @ np.linspace(0.01, 0.05, 10))


def test_hopeless_layers_are_found_from_leave_one_outs():
    masks = ~np.eye(10, dtype=bool)
    scores = ruined_without_layer_2(masks)
    assert list(hopeless_layers(masks, scores, 4)) == [2]
    assert list(hopeless_layers(masks[1:], scores[1:], 4)) == []  # one leave-one-out is missing
    assert list(hopeless_layers(masks, np.full(10, np.nan), 4)) == []
    assert list(hopeless_layers(masks, scores, 10)) == []


@pytest.mark.parametrize("by", ["error", "neyman"])
def test_allocating_keeps_hopeless_layers_in_and_spends_where_scores_vary(by):
    def game(masks):
        noise = rng(5).normal(size=2**10)[masks @ 2 ** np.arange(10)]
        return ruined_without_layer_2(masks) + 0.2 * noise * (masks.sum(axis=1) == 5)

    sampler, masks = AllocatingSampler([8, 5], by=by), np.empty((0, 10), dtype=bool)
    for _ in range(4):
        drawn = sampler.sample(10, 30, rng(len(masks)))
        masks = np.concatenate([masks, drawn])
        sampler.update(masks, game(masks))
    assert np.array_equal(masks[:10], ~np.eye(10, dtype=bool))
    assert len(np.unique(masks, axis=0)) == len(masks)
    assert list(sampler.hopeless_) == [2]
    assert masks[30:, 2].all()
    assert sampler.shares_[5] > 3 * sampler.shares_[8]
    assert (masks[60:].sum(axis=1) == 5).sum() > (masks[60:].sum(axis=1) == 8).sum()


def test_fit_asks_in_rounds_and_leaves_the_users_sampler_alone():
    sampler = AllocatingSampler()
    model = tiny_random("gpt2", n_layers=5)
    ids = np.arange(144).reshape(6, 24) % 60
    pruner = LayerPruner(n_masks=24, sampler=sampler, random_state=0).fit(model, ids)
    assert pruner.diagnostics_["unbiased"] is False  # its masks are not uniform within a size
    assert vars(sampler) == vars(clone(sampler))
    with pytest.raises(ValueError, match="by must be"):
        AllocatingSampler(by="variance").sample(5, 10, rng())

"""Samplers and surrogates on games whose answers are known."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone

from layershap import PairwiseRidge, PaperMLP, StratifiedSampler, shapley
from layershap.samplers import strata_sizes


def rng():
    return np.random.default_rng(0)


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


def pairwise_game(n: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    main, pairs = generator.normal(size=n), np.triu(generator.normal(size=(n, n)), 1)

    def game(masks):
        removed = (~np.asarray(masks)).astype(float)
        return 1 + removed @ main + np.einsum("mi,ij,mj->m", removed, pairs, removed)

    return game


def test_pairwise_ridge_recovers_a_pairwise_game_and_its_values():
    game = pairwise_game(6)
    masks = shapley.all_masks(6)
    model = PairwiseRidge(alphas=[1e-10]).fit(masks, game(masks))
    assert model.predict(masks) == pytest.approx(game(masks), abs=1e-6)
    assert model.shapley_values() == pytest.approx(shapley.exact(game, 6), abs=1e-6)


def test_closed_form_over_strata_is_the_sampled_one():
    game = pairwise_game(6)
    masks = shapley.all_masks(6)
    model = PairwiseRidge(alphas=[1e-10]).fit(masks, game(masks))
    sampled = shapley.stratified_marginals(model.predict, 6, [5, 4], 20_000, rng())
    assert (np.abs(model.shapley_values([5, 4]) - sampled.values) < 4 * sampled.standard_errors).all()


def test_paper_network_learns_is_seeded_and_survives_pickling():
    masks = StratifiedSampler(replace=True).sample(8, 600, rng())
    scores = 1 / (1 + (~masks) @ np.linspace(0.1, 2, 8))
    model = PaperMLP(batch_size=30, random_state=0).fit(masks, scores)
    predicted = model.predict(masks)
    assert 1 - ((predicted - scores) ** 2).mean() / scores.var() > 0.5
    assert np.array_equal(clone(model).fit(masks, scores).predict(masks), predicted)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(masks), predicted)
    other = PaperMLP(batch_size=30, random_state=1).fit(masks, scores).predict(masks)
    assert not np.array_equal(other, predicted)
    assert [w.shape for w in model.weights_] == [(16, 8), (16,), (1, 16), (1,)]

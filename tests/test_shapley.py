"""Values against closed forms and enumeration."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from layershap import shapley


def random_game(n_players: int, seed: int = 0):
    table = np.random.default_rng(seed).normal(size=2**n_players)
    weights = 2 ** np.arange(n_players)
    return lambda masks: table[np.asarray(masks) @ weights]


def glove(masks):
    """Player 0 has a left glove, 1 and 2 a right one; a pair is worth 1. Values 2/3, 1/6, 1/6."""
    masks = np.asarray(masks)
    return (masks[:, 0] & (masks[:, 1] | masks[:, 2])).astype(float)


def test_glove_game():
    assert shapley.exact(glove, 3) == pytest.approx([2 / 3, 1 / 6, 1 / 6], abs=1e-12)


def test_exact_is_the_mean_over_all_orders():
    game, n = random_game(5), 5
    expected = np.zeros(n)
    for order in permutations(range(n)):
        mask = np.zeros((1, n), dtype=bool)
        for player in order:
            before = game(mask)[0]
            mask[0, player] = True
            expected[player] += (game(mask)[0] - before) / 120
    assert shapley.exact(game, n) == pytest.approx(expected, abs=1e-12)


def test_efficiency_and_dummy():
    game = random_game(6)

    def with_dummy(masks):
        return game(np.delete(masks, 2, axis=1))

    values = shapley.exact(with_dummy, 7)
    assert values[2] == pytest.approx(0, abs=1e-12)
    assert values.sum() == pytest.approx(game(np.ones((1, 6), bool))[0] - game(np.zeros((1, 6), bool))[0], abs=1e-12)


@pytest.mark.parametrize("antithetic", [True, False])
def test_permutation_sampling_agrees_within_its_error(antithetic):
    game = random_game(8, seed=3)
    found = shapley.permutation(game, 4000, rng=np.random.default_rng(0), n_players=8, antithetic=antithetic)
    gap = np.abs(found.values - shapley.exact(game, 8))
    assert (gap < 4 * found.standard_errors).all()
    assert (found.standard_errors < 0.05).all()
    # Each order's marginals telescope, so efficiency holds draw by draw.
    total = game(np.ones((1, 8), bool))[0] - game(np.zeros((1, 8), bool))[0]
    assert found.draws.sum(axis=1) == pytest.approx(np.full(len(found.draws), total))


def test_stratified_marginals_average_over_masks_of_the_strata_only():
    """By enumeration: masks of size k uniform, f(m with i) - f(m without i) whether or not i is in m."""
    game, n, strata = random_game(6, seed=5), 6, [5, 3]
    expected = np.zeros(n)
    masks = shapley.all_masks(n)
    for size in strata:
        of_size = masks[masks.sum(axis=1) == size]
        for i in range(n):
            with_i, without_i = of_size.copy(), of_size.copy()
            with_i[:, i], without_i[:, i] = True, False
            expected[i] += (game(with_i) - game(without_i)).mean() / len(strata)
    found = shapley.stratified_marginals(game, n, strata, 40_000, np.random.default_rng(0))
    assert (np.abs(found.values - expected) < 4 * found.standard_errors + 1e-12).all()


def test_stratified_marginals_take_a_few_batched_calls():
    calls = []

    def game(masks):
        calls.append(len(masks))
        return masks.sum(axis=1).astype(float)

    found = shapley.stratified_marginals(game, 4, [3], 1000, np.random.default_rng(0))
    assert calls == [2000] * 4
    assert found.values == pytest.approx(np.ones(4))


def test_sample_strata_gives_equal_budget():
    masks = shapley.sample_strata(10, [9, 6], 101, np.random.default_rng(0))
    assert [(masks.sum(axis=1) == k).sum() for k in (9, 6)] == [51, 50]


def test_removal_order_breaks_ties_by_index_and_puts_protected_layers_last():
    removable = np.array([True, True, False, True])
    assert list(shapley.removal_order(np.array([0.5, 0.1, np.nan, 0.1]), removable)) == [1, 3, 0, 2]


def test_errors():
    with pytest.raises(ValueError, match="2\\^20"):
        shapley.exact(lambda m: np.zeros(len(m)), 21)
    with pytest.raises(ValueError, match="no finite score"):
        shapley.exact(lambda m: np.full(len(m), np.nan), 3)
    with pytest.raises(ValueError, match="n_players"):
        shapley.exact(lambda m: np.zeros(len(m)))

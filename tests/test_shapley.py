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


@pytest.mark.parametrize("n_players", [2, 3, 5, 8])
def test_the_axioms_hold_to_rounding_on_random_games(n_players):
    masks = shapley.all_masks(n_players)
    weights = 2 ** np.arange(n_players)
    for seed in range(25):
        first, second = (np.random.default_rng([seed, k]).normal(size=2**n_players) for k in (0, 1))

        def values(table):
            return shapley.exact(lambda asked: table[np.asarray(asked) @ weights], n_players)

        efficient = values(first).sum() - (first[-1] - first[0])
        linear = values(2 * first - 3 * second) - (2 * values(first) - 3 * values(second))
        swapped = masks[:, [1, 0, *range(2, n_players)]] @ weights
        symmetric = np.empty_like(first)
        symmetric[masks @ weights] = first[masks @ weights] + first[swapped]
        one, other = values(symmetric)[:2]
        without_last = values(first[np.arange(2**n_players) % 2 ** (n_players - 1)])[-1]  # the last player does nothing
        assert np.abs([efficient, one - other, without_last, *linear]).max() < 1e-13


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
    with pytest.raises(ValueError, match="2\\^16"):
        shapley.exact(lambda m: np.zeros(len(m)), 17)
    with pytest.raises(ValueError, match="no finite score"):
        shapley.exact(lambda m: np.full(len(m), np.nan), 3)
    with pytest.raises(ValueError, match="n_players"):
        shapley.exact(lambda m: np.zeros(len(m)))


def test_max_players_is_a_choice():
    assert shapley.exact(lambda m: m.sum(axis=1).astype(float), 3, max_players=3) == pytest.approx([1, 1, 1])
    with pytest.raises(ValueError, match="raise max_players"):
        shapley.exact(lambda m: np.zeros(len(m)), 3, max_players=2)


def test_kernel_regression_agrees_within_its_error_and_is_efficient():
    game = random_game(7, seed=1)
    found = shapley.kernel(game, 6000, rng=np.random.default_rng(0), n_players=7)
    exact = shapley.exact(game, 7)
    assert (np.abs(found.values - exact) < 5 * found.standard_errors).all()
    assert (found.standard_errors < 0.1).all()
    assert found.values.sum() == pytest.approx(exact.sum(), abs=1e-9)


def test_kernel_regression_is_exact_for_an_additive_game():
    weights = np.arange(1.0, 6.0)
    found = shapley.kernel(lambda m: m @ weights, 40, rng=np.random.default_rng(0), n_players=5)
    assert found.values == pytest.approx(weights, abs=1e-9)
    assert found.standard_errors == pytest.approx(np.zeros(5), abs=1e-9)


@pytest.mark.parametrize("index", ["k-SII", "STII", "FSII"])
def test_interactions_are_shapiqs(index):
    exact_computer = pytest.importorskip("shapiq.game_theory.exact").ExactComputer
    game, n = random_game(6, seed=2), 6
    theirs = exact_computer(n_players=n, game=lambda masks: game(np.asarray(masks, dtype=bool)))(index, 2)
    ours = shapley.interactions(game, n, index=index)
    # shapiq solves for Faith-Shap by least squares, with large weights in place of its two constraints.
    for i in range(n):
        assert ours.main[i] == pytest.approx(theirs[(i,)], abs=1e-7)
        for j in range(i + 1, n):
            assert ours.pairs[i, j] == ours.pairs[j, i] == pytest.approx(theirs[(i, j)], abs=1e-7)


@pytest.mark.parametrize("index", ["k-SII", "STII", "FSII"])
def test_interactions_sum_to_the_grand_coalition(index):
    game = random_game(6, seed=3)
    found = shapley.interactions(game, 6, index=index)
    ends = game(np.array([[False] * 6, [True] * 6]))
    assert found.main.sum() + found.pairs.sum() / 2 == pytest.approx(ends[1] - ends[0], abs=1e-10)
    assert (np.diag(found.pairs) == 0).all()


def test_interactions_of_the_glove_game():
    """The two right gloves stand in for each other; each needs the left one."""
    pairs = shapley.interactions(glove, 3, index="STII").pairs
    assert pairs[0, 1] == pairs[0, 2] == pytest.approx(2 / 3)
    assert pairs[1, 2] == pytest.approx(-1 / 3)


def test_sampled_interactions_agree_within_their_error():
    game, n = random_game(6, seed=4), 6
    found = shapley.sampled_interactions(game, 3000, rng=np.random.default_rng(0), n_players=n)
    exact = shapley.interactions(game, n, index="STII")
    off = ~np.eye(n, dtype=bool)
    assert (np.abs(found.pairs - exact.pairs)[off] < 4.5 * found.pair_errors[off]).all()
    assert found.pair_errors.max() < 0.1
    assert found.main == pytest.approx(exact.main, abs=1e-12)


def test_strata_around_one_depth():
    assert shapley.strata_around(12, 4) == [7, 8, 9]
    assert shapley.strata_around(12, 1) == [10, 11]
    assert shapley.strata_around(12, 11, width=2) == [1, 2, 3]
    with pytest.raises(ValueError, match=r"\[1, 11\]"):
        shapley.strata_around(12, 12)
    with pytest.raises(ValueError, match=r"width must be an int of at least 0 .* got -1"):
        shapley.strata_around(12, 4, width=-1)


def test_interaction_errors():
    with pytest.raises(ValueError, match="index must be"):
        shapley.interactions(glove, 3, index="SII")
    with pytest.raises(ValueError, match=r"n_masks must be an int of at least 6 \(2 L, to determine 3 values\), got 5"):
        shapley.kernel(glove, 5, rng=np.random.default_rng(0), n_players=3)
    with pytest.raises(ValueError, match="at least 2 players"):
        shapley.kernel(glove, 5, rng=np.random.default_rng(0), n_players=1)


def test_kernel_regression_refuses_draws_that_do_not_determine_the_values():
    """The additive game 1..12 from 2 L = 24 draws: in no seed a wrong value, in none a false certainty."""
    weights = np.arange(1.0, 13.0)
    evaluated = []

    def game(masks):
        evaluated.append(len(masks))
        return masks @ weights

    def values(seed, n_masks=24):
        evaluated.clear()
        return shapley.kernel(game, n_masks, rng=np.random.default_rng(seed), n_players=12)

    for seed in (1, 2, 5, 7):
        with pytest.raises(ValueError, match="n_masks=24"):
            values(seed)
        assert not evaluated
    for seed in (0, 3, 4, 6):
        found = values(seed)
        assert found.values == pytest.approx(weights, abs=1e-9)
        assert np.isnan(found.standard_errors).all()  # twelve pairs less one group don't determine them
    assert np.isfinite(values(1, n_masks=72).standard_errors).all()


def test_too_few_masks_for_stratified_marginals_are_named():
    for n_masks in (0, -3):
        with pytest.raises(ValueError, match=f"n_masks must be an int of at least 1 .* got {n_masks}"):
            shapley.stratified_marginals(glove, 3, [2], n_masks, np.random.default_rng(0))
    with pytest.raises(ValueError, match="n_masks must be an int of at least 0, got -1"):
        shapley.sample_strata(3, [2], -1, np.random.default_rng(0))

"""Selectors against enumeration: the bundled GPT-2's real values where they are needed, random games elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from layershap import Exhaustive, Greedy, LayerGame, LayerPruner, PairwiseRidge, SurrogateSearch, shapley
from layershap.fitting.removable_game import RemovableGame
from layershap.masks import children, over_layers, parents, subsets, swaps, without
from layershap.protocols import SelectionEvidence
from layershap.selection.bounds import largest_rise, upper_bounds
from layershap.selection.exhaustive import all_sets, count_sets
from layershap.selection.greedy import evaluated_path, greedy_masks, greedy_order, greedy_path
from layershap.selection.neighbourhoods import best_predicted
from layershap.selection.widening import widen
from layershap.testing import check_selector


@pytest.mark.parametrize("selector", [Exhaustive(), Greedy(), SurrogateSearch(), SurrogateSearch(bounded=True)])
def test_they_keep_the_contract(selector):
    check_selector(selector)


def table_game(scores):
    weights = 2 ** np.arange(len(scores).bit_length() - 1)
    return lambda masks: scores[np.asarray(masks) @ weights]


def searched(game, n_players, max_remove, selector, max_masks=10_000, seed=0):
    record = RemovableGame(game, np.ones(n_players, dtype=bool), max_masks)
    record(~np.eye(n_players, dtype=bool))
    selector.search(record, PairwiseRidge(), max_remove, np.random.default_rng(seed))
    of_size = [(~record.masks).sum(axis=1) == n for n in range(1, max_remove + 1)]
    return record, np.array([record.scores[rows].max() for rows in of_size])


@pytest.fixture(scope="module")
def stories_table(stories, stories_calibration):
    return LayerGame(stories[0], stories_calibration)(shapley.all_masks(5))


def random_table(n_players, seed, monotone):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=2**n_players)
    if monotone:
        # The sum of non-negative weights over all sub-coalitions (Harsanyi dividends): no removal raises the score.
        masks = shapley.all_masks(n_players).astype(float)
        scores = ((masks @ (1 - masks).T) == 0).T @ np.abs(scores) ** 3
    return scores


def plain_greedy(scores, n_players, max_remove):
    """Greedy written out: bit i set = layer i kept."""
    code, found = 2**n_players - 1, []
    for _ in range(max_remove):
        code = max((code & ~(1 << i) for i in range(n_players) if code >> i & 1), key=lambda child: scores[child])
        found.append(scores[code])
    return np.array(found)


@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_greedy_is_greedy(seed, monotone):
    scores = random_table(7, seed, monotone)
    expected = plain_greedy(scores, 7, 5)
    record, _ = searched(table_game(scores), 7, 5, Greedy())
    assert len(record.masks) == greedy_masks(7, 5) == 7 + 6 + 5 + 4 + 3
    path = greedy_path(record, 5, bounded=False)
    assert np.array_equal(record(np.array(path)), expected)
    bounded, _ = searched(table_game(scores), 7, 5, Greedy(bounded=True))
    if monotone:
        assert np.array_equal(bounded(np.array(greedy_path(bounded, 5, bounded=True))), expected)
        assert len(bounded.masks) <= len(record.masks)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("monotone", [False, True])
def test_the_search_is_never_worse_than_greedy(seed, monotone):
    """By construction, on any game, even if it may evaluate no more masks than greedy."""
    scores = random_table(8, seed, monotone)
    greedy = plain_greedy(scores, 8, 5)
    record, found = searched(table_game(scores), 8, 5, SurrogateSearch(), greedy_masks(8, 5))
    assert (found >= greedy).all()
    assert len(record.masks) <= greedy_masks(8, 5)
    if monotone:
        record, found = searched(table_game(scores), 8, 5, SurrogateSearch(bounded=True), greedy_masks(8, 5))
        assert (found >= greedy).all()


def test_the_search_finds_the_optimum_of_a_real_model(stories_table):
    _, found = searched(table_game(stories_table), 5, 4, SurrogateSearch())
    removed = 5 - shapley.all_masks(5).sum(axis=1)
    assert found == pytest.approx([stories_table[removed == n].max() for n in (1, 2, 3, 4)])


@pytest.mark.parametrize("selector", [Exhaustive(), Greedy(), SurrogateSearch()])
def test_sets_that_the_model_can_not_lose_are_not_searched_for(stories_table, selector):
    """Of layers 3 and 4, the two of least value, one must stay."""
    record = RemovableGame(table_game(stories_table), np.ones(5, dtype=bool), 100, keep_one_of=[(3, 4)])
    record(~np.eye(5, dtype=bool))
    selector.search(record, PairwiseRidge(), 3, np.random.default_rng(0))
    masks = shapley.all_masks(5)
    allowed = masks[:, [3, 4]].any(axis=1)
    assert np.array_equal(record.allowed(masks), allowed)
    evidence = SelectionEvidence(
        np.zeros(5), np.ones(5, dtype=bool), PairwiseRidge(), record.masks, record.scores, ((3, 4),)
    )
    for n_remove in (1, 2, 3):
        chosen = selector.select(evidence, n_remove)
        assert len(chosen) == n_remove
        assert not {3, 4} <= set(chosen.tolist())
        if not isinstance(selector, Greedy):
            of_size = allowed & (masks.sum(axis=1) == 5 - n_remove)
            found = np.isin(np.arange(5), chosen, invert=True)
            assert stories_table[found @ 2 ** np.arange(5)] == stories_table[of_size].max()


def test_bounds_hold_in_monotone_games_and_allow_for_the_largest_rise():
    masks = shapley.all_masks(6)
    rng = np.random.default_rng(0)
    for monotone in (True, False):
        scores = random_table(6, 1, monotone)
        seen = rng.permutation(64)[:40]
        rise = largest_rise(masks[seen], scores[seen])
        assert (rise == 0) == monotone
        if monotone:
            assert (upper_bounds(masks, masks[seen], scores[seen]) >= scores).all()
    assert upper_bounds(masks[:1], masks[-1:], np.array([0.5])) == 0.5


def second_is_better_later(masks):
    """Layer 0 is the cheapest to remove, 1 the next; but 1 and 2 together cost less than 0 and 1."""
    removed = ~np.asarray(masks)
    return 1 - removed @ [0.10, 0.11, 0.3, 0.45, 0.9] + 0.35 * (removed[:, 1] & removed[:, 2])


@pytest.mark.parametrize("n_parents", [1, 2])
def test_children_of_the_second_best_set_are_evaluated_unless_bounds_exclude_them(n_parents):
    record = RemovableGame(second_is_better_later, np.ones(5, dtype=bool), 100)
    record(~np.eye(5, dtype=bool))
    greedy_path(record, 2, bounded=False)
    n_before, free = len(record.masks), np.array([True, True, True, True, False])
    widen(record, second_is_better_later, free, 2, record.n_left, n_parents=n_parents)
    new = [np.flatnonzero(~mask).tolist() for mask in record.masks[n_before:]]
    # {1, 3} can't be better than {3}, 0.55, and so not than the second best pair {0, 2}, 0.6.
    assert new == ([[1, 2]] if n_parents == 2 else [])
    best = record.scores[(~record.masks).sum(axis=1) == 2].max()
    assert best == pytest.approx(0.94 if n_parents == 2 else 0.79)


@pytest.mark.parametrize(
    ("name", "wrong", "least"),
    [("patience", 0, 1), ("width", 2.5, 1), ("n_parents", "a", 1), ("n_neighbours", -1, 0), ("n_global", None, 0)],
)
def test_wrong_parameters_of_the_search_are_refused_before_work(stories, stories_calibration, name, wrong, least):
    pruner = LayerPruner(selector=SurrogateSearch(**{name: wrong}), random_state=0)
    error = ValueError if isinstance(wrong, int) else TypeError
    with pytest.raises(error, match=f"{name} must be an int of at least {least}, got {wrong!r}"):
        pruner.fit(stories[0], stories_calibration)


def test_what_is_left_is_shared_in_proportion_to_the_layers_removed_the_most_promising_first():
    rng = np.random.default_rng(0)
    costs = rng.uniform(size=10)

    def additive(masks):
        return -(~np.asarray(masks) @ costs)

    record = RemovableGame(additive, np.ones(10, dtype=bool), greedy_masks(10, 4) + 9)
    record(~np.eye(10, dtype=bool))
    greedy_path(record, 4, bounded=False)
    n_before = len(record.masks)
    assert record.n_left == 9
    # A surrogate that takes the dearest layers for the cheapest.
    widen(record, lambda masks: -additive(masks), np.ones(10, dtype=bool), 4, record.n_left, n_parents=10)
    sizes = (~record.masks[n_before:]).sum(axis=1)
    assert [int((sizes == n).sum()) for n in (2, 3, 4)] == [2, 3, 4]
    assert set(np.flatnonzero(~record.masks[n_before])) == set(np.argsort(costs)[-2:])


def test_neighbourhoods():
    free = np.array([False, True, True, True, True])
    mask = np.array([True, True, True, False, True])
    assert [np.flatnonzero(~m).tolist() for m in children(mask, free)] == [[1, 3], [2, 3], [3, 4]]
    assert [np.flatnonzero(~m).tolist() for m in swaps(mask, free)] == [[1], [2], [4]]
    assert [np.flatnonzero(~m).tolist() for m in parents(~free, free)] == [[2, 3, 4], [1, 3, 4], [1, 2, 4], [1, 2, 3]]
    assert len(subsets(free, 2)) == 6
    assert subsets(free, 2)[:, 0].all()


def test_the_surrogates_best_sets_are_found_by_beam_and_swaps_as_by_enumeration(monkeypatch):
    rng = np.random.default_rng(0)
    main, pairs = rng.normal(size=10), rng.normal(size=(10, 10)) / 3

    def predict(masks):
        removed = (~masks).astype(float)
        return removed @ main + np.einsum("mi,ij,mj->m", removed, pairs, removed)

    free = np.ones(10, dtype=bool)
    exact = best_predicted(predict, free, 7, 4)
    monkeypatch.setattr("layershap.selection.neighbourhoods.EXHAUSTIVE_SETS", 0)
    beam = best_predicted(predict, free, 7, 16)
    assert [beam[n][0].tolist() for n in exact] == [exact[n][0].tolist() for n in exact]


def test_never_worse_than_greedy_on_a_trained_model_at_no_more_masks(gpt2, gpt2_calibration, tmp_path):
    ledger = tmp_path / "scores.jsonl"
    pruner = LayerPruner(random_state=0, ledger=ledger).fit(gpt2[0], gpt2_calibration)
    greedy = LayerPruner(selector=Greedy(), random_state=0, ledger=ledger).fit(gpt2[0], gpt2_calibration)
    with LayerGame(gpt2[0], gpt2_calibration, ledger=ledger) as game:
        for n_remove in range(1, 9):
            found, path = game(np.array([pruner.get_support(n_remove), greedy.get_support(n_remove)]))
            assert found >= path
        assert game.n_evaluated == 0


def test_the_known_optimum_of_a_trained_model_at_a_fraction_of_its_masks(gpt2, gpt2_calibration):
    """Seven players of the bundled model: the four ends stay, one layer between them too; all 128 values are known."""
    protect = [0, 1, 6, 10, 11]
    players = np.setdiff1d(np.arange(12), protect)
    masks = np.ones((2**7, 12), dtype=bool)
    masks[:, players] = shapley.all_masks(7)
    with LayerGame(gpt2[0], gpt2_calibration) as game:
        scores = game(masks)
        removed = (~masks).sum(axis=1)
        pruner = LayerPruner(protect=protect, n_masks=64, max_remove=5, random_state=0).fit(gpt2[0], gpt2_calibration)
        for n_remove in range(1, 6):
            found = game(pruner.get_support(n_remove)[None])[0]
            assert found == pytest.approx(scores[removed == n_remove].max(), abs=1e-6)
    assert pruner.diagnostics_["n_evaluated"] <= 65


@pytest.mark.parametrize("seed", range(4))
def test_the_greedy_of_selectors_and_of_baselines_is_one(seed):
    """One layer is protected: the one walks over the other five, the other over all six."""
    scores = random_table(6, seed, monotone=False)
    scores[np.random.default_rng(seed).integers(64, size=8)] = np.nan
    removable = np.arange(6) != 2
    record = RemovableGame(table_game(scores), removable, 100)
    path = over_layers(np.array(greedy_path(record, 4, bounded=False)), removable)
    order = greedy_order(table_game(scores), removable, 4)
    assert len(set(order)) == 4
    np.testing.assert_array_equal(path, [without(order[:n], 6) for n in (1, 2, 3, 4)])
    calls = []
    greedy_order(lambda masks: calls.append(masks) or np.zeros(len(masks)), removable, 2)
    assert [masks.tolist() for masks in calls] == [
        [without([layer], 6).tolist() for layer in (0, 1, 3, 4, 5)],
        [without([0, layer], 6).tolist() for layer in (1, 3, 4, 5)],
    ]


def test_greedy_is_followed_again_over_what_was_evaluated():
    scores = random_table(5, 1, monotone=False)
    record = RemovableGame(table_game(scores), np.ones(5, dtype=bool), 100)
    path = greedy_path(record, 3, bounded=False)
    np.testing.assert_array_equal(evaluated_path(record.masks, record.scores, 4), path)


def test_all_sets_are_as_many_as_were_counted():
    free = np.array([True, True, False, True, True])
    sets = all_sets(free, 3)
    assert len(sets) == count_sets(4, 3, max_masks=14, owner="a test") == 4 + 6 + 4
    assert sets[:, 2].all()
    assert (np.diff((~sets).sum(axis=1)) >= 0).all()
    with pytest.raises(ValueError, match="14 sets of up to 3 of 4 layers exceed a test's max_masks=13"):
        count_sets(4, 3, max_masks=13, owner="a test")

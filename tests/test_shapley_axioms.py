"""The axioms on random games of 2 to 10 players, for every estimator: to rounding where they hold draw by draw, else
within the errors that the estimator states.

Scores are standard normal, so that a value, a weighted mean of scores whose weights sum to 2 in absolute value, has a
rounding error of some 1e-15. Dividends are sums of up to 2^10 scores, and interactions of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student
from sklearn.dummy import DummyRegressor

from layershap import HammingProcess, PairwiseRidge, StratifiedSampler, shapley
from layershap.fitting.values import ValueSettings, fit_values
from layershap.samplers.distinct import draw_distinct
from layershap.shapley import SampledMasks, Semivalue, all_masks

ROUNDING = 1e-12
OF_DIVIDENDS = 1e-9
BEYOND = 1e-7
"""Chance of a difference beyond the stated errors, of each that is looked at; some thousand are, with fixed seeds."""


@dataclass(frozen=True)
class Estimate:
    """Values [L], their stated errors, and how many degrees of freedom these have."""

    values: np.ndarray
    errors: np.ndarray
    freedom: int

    def within(self, errors: np.ndarray) -> np.ndarray:
        return student.isf(BEYOND / 2, self.freedom) * errors + ROUNDING


@dataclass(frozen=True)
class Drawn:
    """A random game, two of its players, and the seed of an estimator's draws."""

    n_players: int
    seed: int

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, 1])

    def table(self, part: int = 0) -> np.ndarray:
        return np.random.default_rng([self.seed, 0, part]).normal(size=2**self.n_players)

    @property
    def players(self) -> tuple[int, int]:
        one, other = np.random.default_rng([self.seed, 2]).permutation(self.n_players)[:2]
        return int(one), int(other)

    @property
    def symmetric(self) -> np.ndarray:
        """The table made symmetric in the two players."""
        columns = list(range(self.n_players))
        one, other = self.players
        columns[one], columns[other] = other, one
        return (self.table() + self.table()[code(all_masks(self.n_players)[:, columns])]) / 2

    @property
    def with_dummy(self) -> np.ndarray:
        """The table in which the first of the two players adds 0.7 to every coalition, and nothing else."""
        masks = all_masks(self.n_players)
        without = masks.copy()
        without[:, self.players[0]] = False
        return self.table()[code(without)] + 0.7 * masks[:, self.players[0]]


def code(masks: np.ndarray) -> np.ndarray:
    return np.asarray(masks) @ (1 << np.arange(np.shape(masks)[1]))


def game_of(table: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda masks: table[code(masks)]


GAMES = st.builds(Drawn, st.integers(2, 10), st.integers(0, 2**32 - 1))
few = settings(max_examples=15, deadline=None, derandomize=True, database=None)

N_ORDERS = 200


def strata_of(n_players: int) -> list[int]:
    return [n_players - 1, n_players // 2]


def by_permutation(drawn: Drawn, table: np.ndarray, *, antithetic: bool) -> Estimate:
    found = shapley.permutation(
        game_of(table), N_ORDERS, rng=drawn.rng, n_players=drawn.n_players, antithetic=antithetic
    )
    return Estimate(found.values, found.standard_errors, N_ORDERS // (2 if antithetic else 1) - 1)


def by_kernel(drawn: Drawn, table: np.ndarray) -> Estimate:
    found = shapley.kernel(game_of(table), 600, rng=drawn.rng, n_players=drawn.n_players)
    return Estimate(found.values, found.standard_errors, len(found.draws) - 1)


def by_marginals(drawn: Drawn, table: np.ndarray) -> Estimate:
    n = drawn.n_players
    found = shapley.stratified_marginals(game_of(table), n, strata_of(n), N_ORDERS, drawn.rng)
    return Estimate(found.values, found.standard_errors, N_ORDERS - 1)


def by_masks(drawn: Drawn, table: np.ndarray, semivalue: Semivalue) -> Estimate:
    n = drawn.n_players
    shares = {int(size): float(semivalue.spread[size]) for size in semivalue.sizes}
    masks = draw_distinct(n, shares, 30 * n, drawn.rng, np.zeros((0, n), dtype=bool))
    sampled = SampledMasks(masks, semivalue)
    assert not sampled.missing
    scores = table[code(masks)]
    return Estimate(sampled.values(scores), sampled.standard_errors(scores), 2 * n)


def by_fit(drawn: Drawn, table: np.ndarray, surrogate, strata: list[int] | None) -> Estimate:
    n = drawn.n_players
    sampler = StratifiedSampler("all" if strata is None else strata, neighbours=True)
    masks = sampler.sample(n, 30 * n, drawn.rng)
    settings_ = ValueSettings(None if strata is None else tuple(strata), 400, unbiased=True)
    found = fit_values(surrogate, masks, table[code(masks)], settings_, drawn.rng)
    return Estimate(found.values, found.mask_errors, 2 * n)


def exact(values: np.ndarray) -> Estimate:
    return Estimate(values, np.zeros_like(values), 1)


def of_shapley(drawn: Drawn, table: np.ndarray) -> np.ndarray:
    return shapley.exact_from_table(table)


def of_strata(drawn: Drawn, table: np.ndarray) -> np.ndarray:
    n = drawn.n_players
    return Semivalue.of_strata(n, strata_of(n)).of_table(all_masks(n), table)


def all_sizes(n_players: int) -> Semivalue:
    return Semivalue.shapley(n_players)


def strata_only(n_players: int) -> Semivalue:
    return Semivalue.of_strata(n_players, strata_of(n_players))


Estimator = Callable[[Drawn, np.ndarray], Estimate]

ESTIMATORS: dict[str, tuple[Estimator, Callable[[Drawn, np.ndarray], np.ndarray], set[str]]] = {
    # What it estimates, exactly; and which axioms hold draw by draw: what the scores add up to is no matter of chance.
    "exact": (
        lambda drawn, table: exact(shapley.exact(game_of(table), drawn.n_players)),
        of_shapley,
        {"efficiency", "dummy", "linearity"},
    ),
    "semivalue, Shapley's": (
        lambda drawn, table: exact(Semivalue.shapley(drawn.n_players).of_table(all_masks(drawn.n_players), table)),
        of_shapley,
        {"efficiency", "dummy", "linearity"},
    ),
    "semivalue, strata": (lambda drawn, table: exact(of_strata(drawn, table)), of_strata, {"dummy", "linearity"}),
    "permutation": (
        lambda drawn, table: by_permutation(drawn, table, antithetic=False),
        of_shapley,
        {"efficiency", "dummy", "linearity"},
    ),
    "permutation, antithetic": (
        lambda drawn, table: by_permutation(drawn, table, antithetic=True),
        of_shapley,
        {"efficiency", "dummy", "linearity"},
    ),
    "kernel": (by_kernel, of_shapley, {"efficiency", "linearity"}),
    "stratified marginals": (by_marginals, of_strata, {"dummy", "linearity"}),
    "masks drawn, Shapley's": (
        lambda drawn, table: by_masks(drawn, table, all_sizes(drawn.n_players)),
        of_shapley,
        {"efficiency", "linearity"},
    ),
    "masks drawn, strata": (
        lambda drawn, table: by_masks(drawn, table, strata_only(drawn.n_players)),
        of_strata,
        {"linearity"},
    ),
    "ShapleyValues, no surrogate": (
        lambda drawn, table: by_fit(drawn, table, DummyRegressor(), None),
        of_shapley,
        {"efficiency", "linearity"},
    ),
    "ShapleyValues, pairwise": (
        lambda drawn, table: by_fit(drawn, table, PairwiseRidge(), None),
        of_shapley,
        {"efficiency"},
    ),
    "StratifiedValues, pairwise": (
        lambda drawn, table: by_fit(drawn, table, PairwiseRidge(), strata_of(drawn.n_players)),
        of_strata,
        set(),
    ),
}


@pytest.mark.parametrize("name", ESTIMATORS)
@few
@given(drawn=GAMES)
def test_what_is_estimated_is_within_the_errors_stated(name, drawn):
    estimate, truth, _ = ESTIMATORS[name]
    found = estimate(drawn, drawn.table())
    assert (np.abs(found.values - truth(drawn, drawn.table())) <= found.within(found.errors)).all()


@pytest.mark.parametrize("name", [name for name, (_, _, held) in ESTIMATORS.items() if "efficiency" in held])
@few
@given(drawn=GAMES)
def test_efficiency(name, drawn):
    table = drawn.table()
    assert abs(ESTIMATORS[name][0](drawn, table).values.sum() - (table[-1] - table[0])) < 1e3 * ROUNDING


@pytest.mark.parametrize("name", ESTIMATORS)
@few
@given(drawn=GAMES)
def test_symmetric_players_have_the_same_value(name, drawn):
    """The error of a difference is at most the sum of both errors, however they go together."""
    found = ESTIMATORS[name][0](drawn, drawn.symmetric)
    one, other = drawn.players
    assert abs(found.values[one] - found.values[other]) <= found.within(found.errors[one] + found.errors[other])


@pytest.mark.parametrize("name", ESTIMATORS)
@few
@given(drawn=GAMES)
def test_a_player_that_adds_the_same_to_every_coalition_has_that_value(name, drawn):
    estimate, _, held = ESTIMATORS[name]
    found = estimate(drawn, drawn.with_dummy)
    dummy = drawn.players[0]
    within = ROUNDING if "dummy" in held else found.within(found.errors[dummy])
    assert abs(found.values[dummy] - 0.7) <= within


@pytest.mark.parametrize("name", [name for name, (_, _, held) in ESTIMATORS.items() if "linearity" in held])
@few
@given(drawn=GAMES)
def test_linearity_with_the_same_draws(name, drawn):
    estimate = ESTIMATORS[name][0]
    first, second = drawn.table(), drawn.table(1)
    together = estimate(drawn, 2 * first - 3 * second).values
    apart = 2 * estimate(drawn, first).values - 3 * estimate(drawn, second).values
    assert np.abs(together - apart).max() < 1e3 * ROUNDING


@few
@given(drawn=GAMES)
def test_strata_of_all_sizes_are_shapleys_weights(drawn):
    n = drawn.n_players
    every = Semivalue.of_strata(n, range(n + 1))
    assert every.kept == pytest.approx(Semivalue.shapley(n).kept, abs=1e-15)
    assert every.lost == pytest.approx(Semivalue.shapley(n).lost, abs=1e-15)


@settings(max_examples=4, deadline=None, derandomize=True, database=None)
@given(drawn=GAMES)
def test_the_default_surrogates_values_are_efficient_and_within_their_errors(drawn):
    table = drawn.table()
    found = by_fit(drawn, table, HammingProcess(), None)
    assert abs(found.values.sum() - (table[-1] - table[0])) < OF_DIVIDENDS
    assert (np.abs(found.values - of_shapley(drawn, table)) <= found.within(found.errors)).all()


# -- interactions ----------------------------------------------------------------------------------------------------


def interactions_of(drawn: Drawn, table: np.ndarray, index: str) -> shapley.Interactions:
    if index == "sampled":
        return shapley.sampled_interactions(game_of(table), 60, rng=drawn.rng, n_players=drawn.n_players)
    return shapley.interactions(game_of(table), drawn.n_players, index=index)


EXACT = ("k-SII", "STII", "FSII")


@pytest.mark.parametrize("index", [*EXACT, "sampled"])
@few
@given(drawn=GAMES)
def test_interactions_are_efficient_linear_and_know_a_dummy(index, drawn):
    first, second = drawn.table(), drawn.table(1)
    one, other = interactions_of(drawn, first, index), interactions_of(drawn, second, index)
    assert abs(one.main.sum() + one.pairs.sum() / 2 - (first[-1] - first[0])) < OF_DIVIDENDS
    together = interactions_of(drawn, 2 * first - 3 * second, index)
    assert np.abs(together.main - (2 * one.main - 3 * other.main)).max() < OF_DIVIDENDS
    assert np.abs(together.pairs - (2 * one.pairs - 3 * other.pairs)).max() < OF_DIVIDENDS
    of_dummy = interactions_of(drawn, drawn.with_dummy, index)
    dummy = drawn.players[0]
    assert of_dummy.main[dummy] == pytest.approx(0.7, abs=OF_DIVIDENDS)
    assert np.abs(of_dummy.pairs[dummy]).max() < OF_DIVIDENDS


@pytest.mark.parametrize("index", [*EXACT, "sampled"])
@few
@given(drawn=GAMES)
def test_interactions_of_symmetric_players_are_the_same(index, drawn):
    found = interactions_of(drawn, drawn.symmetric, index)
    one, other = drawn.players
    rest = [player for player in range(drawn.n_players) if player not in (one, other)]
    errors = found.pair_errors[one, rest] + found.pair_errors[other, rest]
    assert found.main[one] == pytest.approx(found.main[other], abs=OF_DIVIDENDS)
    gap = np.abs(found.pairs[one, rest] - found.pairs[other, rest])
    assert (gap <= student.isf(BEYOND / 2, 59) * errors + OF_DIVIDENDS).all()
    assert (found.pairs == found.pairs.T).all()


@few
@given(drawn=GAMES)
def test_sampled_interactions_are_within_the_errors_stated(drawn):
    found = interactions_of(drawn, drawn.table(), "sampled")
    truth = interactions_of(drawn, drawn.table(), "STII")
    assert found.main == pytest.approx(truth.main, abs=OF_DIVIDENDS)
    within = student.isf(BEYOND / 2, 59) * found.pair_errors + OF_DIVIDENDS
    assert (np.abs(found.pairs - truth.pairs) <= within).all()

"""The contract checks catch what plug-in authors may get wrong; `test_testing_contracts` tries the own parts."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeRegressor

from layershap import PairwiseRidge, selection
from layershap.testing import (
    SamplerContract,
    SurrogateContract,
    check_sampler,
    check_selector,
    check_surrogate,
    check_utility,
)
from layershap.testing.contract import check_contract

pytest_plugins = ["pytester"]


class Sampler:
    """Right in every respect; the wrong ones below differ in one."""

    def sample(self, n_layers, n_masks, rng):
        return rng.random((n_masks, n_layers)) < 0.7


class GlobalRandom(Sampler):
    def sample(self, n_layers, n_masks, rng):
        return np.random.rand(n_masks, n_layers) < 0.7  # noqa: NPY002


class Floats(Sampler):
    def sample(self, n_layers, n_masks, rng):
        return super().sample(n_layers, n_masks, rng).astype(float)


class TooMany(Sampler):
    def sample(self, n_layers, n_masks, rng):
        return super().sample(n_layers, n_masks + 1, rng)


class OwnRandom(Sampler):
    def __init__(self):
        self.rng = np.random.default_rng(0)

    def sample(self, n_layers, n_masks, rng):
        return super().sample(n_layers, n_masks, self.rng)


class FailsOnNaN(Sampler):
    def update(self, masks, scores):
        if np.isnan(scores).any():
            raise ValueError("not finite")


class SaysUniform(Sampler):
    """Keeps the first layer in all masks."""

    uniform_within_sizes = True

    def sample(self, n_layers, n_masks, rng):
        masks = super().sample(n_layers, n_masks, rng)
        masks[:, 0] = True
        return masks


class Utility:
    statistics = ("nll",)

    def score(self, statistics):
        return -statistics.sums["nll"].sum(axis=1)


class Standardised(Utility):
    def score(self, statistics):
        scores = super().score(statistics)
        return (scores - scores.mean()) / (scores.std() + 1e-9)


class PerSequence(Utility):
    def score(self, statistics):
        return -statistics.sums["nll"]


class ChangesInput(Utility):
    def score(self, statistics):
        statistics.sums["nll"] *= -1
        return statistics.sums["nll"].sum(axis=1)


class FailsOnBroken(Utility):
    def score(self, statistics):
        if np.isnan(statistics.sums["nll"]).any():
            raise FloatingPointError("NaN")
        return super().score(statistics)


class OneStatistic(Utility):
    statistics = "nll"


class BeyondItsSequences(Utility):
    def resample(self, n_sequences, rng):
        return rng.integers(1, n_sequences + 1, size=200)


class OwnResamples(Utility):
    def __init__(self):
        self.rng = np.random.default_rng(0)

    def resample(self, n_sequences, rng):
        return self.rng.integers(n_sequences, size=n_sequences)


class SumOfQuestions(Utility):
    def per_question(self, statistics):
        return -statistics.sums["nll"]


class Overspends(selection.Greedy):
    """Says that it needs less than it does."""

    def n_required(self, n_players, max_remove):
        return 3


class WantsTooLittle(selection.Greedy):
    """Has a use for less than it needs."""

    def n_useful(self, n_players, max_remove):
        return 3


class FitsWhatItIsGiven(selection.SurrogateSearch):
    def search(self, game, surrogate, max_remove, rng):
        surrogate.fit(game.masks, game.scores)
        super().search(game, surrogate, max_remove, rng)


class NoMethods:
    pass


class Sign(LinearRegression):
    """Predicts the wrong way round."""

    def predict(self, masks):
        return -super().predict(masks)


class Centred(LinearRegression):
    """A prediction that depends on the other masks."""

    def predict(self, masks):
        found = super().predict(masks)
        return found - found.mean()


class WrongValues(PairwiseRidge):
    def shapley_values(self, strata=None):
        return self.main_effects_


class WrongPairs(PairwiseRidge):
    def interaction_values(self, strata=None):
        return 2 * self.interactions_


class WrongRefits(PairwiseRidge):
    def refitted_values(self, masks, scores, strata=None):
        return -super().refitted_values(masks, scores, strata)


class HoldsAllBack(selection.SurrogateSearch):
    def __init__(self):
        super().__init__(held_back=1.0)


class FirstLayers:
    """Ignores protection."""

    def select(self, evidence, n_remove):
        return np.arange(n_remove)


class Unsorted(selection.ShapleyRanking):
    def select(self, evidence, n_remove):
        return super().select(evidence, n_remove)[::-1]


class WritesEvidence(selection.ShapleyRanking):
    def select(self, evidence, n_remove):
        evidence.contributions[0] = 0.0
        return super().select(evidence, n_remove)


@pytest.mark.parametrize("regressor", [LinearRegression(), DecisionTreeRegressor(random_state=0)])
def test_any_regressor_of_scikit_learn_is_a_surrogate(regressor):
    check_surrogate(regressor)


def test_parts_that_keep_the_contract_pass():
    check_sampler(Sampler())
    check_utility(Utility())


@pytest.mark.parametrize(
    ("check", "part", "message"),
    [
        (check_sampler, GlobalRandom(), "not from NumPy's global generator"),
        (check_sampler, Floats(), "must return a boolean array"),
        (check_sampler, TooMany(), "at most the 1 asked for, got 2|at most the 12 asked for, got 13"),
        (check_sampler, OwnRandom(), "same masks for the same seed"),
        (check_sampler, FailsOnNaN(), "some may be NaN"),
        (check_sampler, SaysUniform(), r"says uniform_within_sizes, but .* it keeps layers \[0"),
        (check_sampler, NoMethods(), "must have a method `sample"),
        (check_utility, Standardised(), "score each mask on its own"),
        (check_utility, PerSequence(), r"must return floats \[M\]"),
        (check_utility, FailsOnBroken(), "must not fail where a masked model is broken"),
        (check_utility, OneStatistic(), "must be a tuple"),
        (check_utility, BeyondItsSequences(), "must draw among the 12 sequences, got indices 1 to 12"),
        (check_utility, OwnResamples(), "a seed repeats the draw"),
        (check_utility, SumOfQuestions(), "must be the mean over the questions"),
        (check_utility, NoMethods(), "a property `statistics`"),
        (check_surrogate, Sign(), "better than its mean"),
        (check_surrogate, Centred(), "predict each mask on its own"),
        (check_surrogate, WrongValues(), "Shapley values of its predictions"),
        (check_surrogate, WrongPairs(), "Shapley interactions of its predictions"),
        (check_surrogate, WrongRefits(), "for the scores that it was fitted on, the values of its predictions"),
        (check_surrogate, NoMethods(), "`fit"),
        (check_selector, FirstLayers(), "removable layers only; layer 2 is protected"),
        (check_selector, Unsorted(), "sorted, distinct"),
        (check_selector, Overspends(), "must do with the 3 new masks"),
        (check_selector, WantsTooLittle(), "n_useful must return at least"),
        (check_selector, FitsWhatItIsGiven(), "fit a clone of the surrogate"),
        (check_selector, HoldsAllBack(), r"a share of the sequences in \[0, 1\), got 1.0"),
        (check_selector, NoMethods(), "must have a method `select"),
    ],
)
def test_broken_contracts_are_named(check, part, message):
    with pytest.raises(AssertionError, match=message):
        check(part)


@pytest.mark.parametrize(("check", "part"), [(check_utility, ChangesInput()), (check_selector, WritesEvidence())])
def test_what_is_given_is_read_only(check, part):
    with pytest.raises(ValueError, match="read-only"):
        check(part)


def test_a_contract_must_know_what_to_check():
    with pytest.raises(NotImplementedError, match=r"SamplerContract must define make\(self\)"):
        SamplerContract().test_it_returns_masks()


def test_what_a_part_does_not_claim_is_skipped_by_name(pytester):
    """As a plug-in author sees it: each test of the contract passes, fails or is skipped by itself."""
    pytester.makepyfile(
        """
        from sklearn.linear_model import LinearRegression
        from layershap.testing import SurrogateContract

        class Constant(LinearRegression):
            def predict(self, masks):
                return 0 * super().predict(masks) + 5.0

        class TestRight(SurrogateContract):
            def make(self):
                return LinearRegression()

        class TestConstant(SurrogateContract):
            def make(self):
                return Constant()
        """
    )
    outcome = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-rfs")
    outcome.assert_outcomes(passed=4 + 2, failed=2, skipped=2 * 3)
    outcome.stdout.fnmatch_lines(["*FAILED*TestConstant::test_it_learns*", "*SKIPPED*it knows no interactions*"])


def test_the_contracts_are_those_that_the_checks_go_by():
    tests = [name for name in vars(SurrogateContract) if name.startswith("test_")]
    ran = []

    class Watched(SurrogateContract):
        def make(self):
            return LinearRegression()

        def __getattribute__(self, name):
            ran.append(name)
            return super().__getattribute__(name)

    check_contract(Watched())
    assert [name for name in ran if name in tests] == tests

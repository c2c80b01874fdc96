"""The contract checks pass on every part of the package and catch what a plug-in author may get wrong."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeRegressor

from layershap import PairwiseRidge, PaperMLP, StratifiedSampler, selection, tasks, utilities
from layershap.datasets import load_task
from layershap.testing import check_sampler, check_selector, check_surrogate, check_utility


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


@pytest.mark.parametrize(
    "utility",
    [utilities.PerplexityRatio, utilities.NegativeLogLikelihood, utilities.KLDivergence, utilities.ExactMatch],
)
def test_utilities(utility):
    check_utility(utility())


def test_utilities_of_tasks(gpt2):
    choice = tasks.multiple_choice(load_task("arc_easy")[:5], gpt2[1])
    words = tasks.last_word([{"text": "It was the best of times"}] * 3, gpt2[1])
    for task in (choice, words, tasks.mixture([choice, words])):
        for utility in (task.utility, *task.metrics.values()):
            check_utility(utility, n_sequences=task.calibration.n_sequences)
    check_utility(utilities.WeightedSum((utilities.PerplexityRatio(), utilities.KLDivergence()), (1.0, 0.2)))


def test_every_sampler_surrogate_and_selector_of_the_package():
    for sampler in (StratifiedSampler(), StratifiedSampler(replace=True), StratifiedSampler(leave_one_out=True)):
        check_sampler(sampler)
    for surrogate in (
        PairwiseRidge(),
        PaperMLP(random_state=0),
        LinearRegression(),
        DecisionTreeRegressor(random_state=0),
    ):
        check_surrogate(surrogate)
    for selector in (selection.ShapleyRanking(), selection.Greedy(), selection.SurrogateSearch()):
        check_selector(selector)


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
        (check_sampler, NoMethods(), "must have a method `sample"),
        (check_utility, Standardised(), "score each mask on its own"),
        (check_utility, PerSequence(), r"must return floats \[M\]"),
        (check_utility, FailsOnBroken(), "must not fail where a masked model is broken"),
        (check_utility, OneStatistic(), "must be a tuple"),
        (check_utility, NoMethods(), "a property `statistics`"),
        (check_surrogate, Sign(), "better than its mean"),
        (check_surrogate, Centred(), "predict each mask on its own"),
        (check_surrogate, WrongValues(), "Shapley values of its predictions"),
        (check_surrogate, NoMethods(), "`fit"),
        (check_selector, FirstLayers(), "removable layers only; layer 2 is protected"),
        (check_selector, Unsorted(), "sorted, distinct"),
        (check_selector, Overspends(), "must do with the 3 new masks"),
        (check_selector, WantsTooLittle(), "n_useful must return at least"),
        (check_selector, FitsWhatItIsGiven(), "fit a clone of the surrogate"),
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

"""The package's own parts, held to the contracts that it offers to plug-in authors."""

from __future__ import annotations

import pytest
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeRegressor

from layershap import (
    BestSurrogate,
    BootstrapEnsemble,
    HammingProcess,
    LinearRidge,
    PairwiseRidge,
    PaperMLP,
    StratifiedSampler,
    selection,
    tasks,
    utilities,
)
from layershap.datasets import load_task
from layershap.testing import SamplerContract, SelectorContract, SurrogateContract, UtilityContract
from tests.helpers.samplers import SpreadSampler


class TestStratified(SamplerContract):
    def make(self):
        return StratifiedSampler()


class TestStratifiedWithReplacement(SamplerContract):
    def make(self):
        return StratifiedSampler(replace=True)


class TestDefault(SamplerContract):
    def make(self):
        return StratifiedSampler(leave_one_out=True, neighbours=True)


class TestAllSizes(SamplerContract):
    def make(self):
        return StratifiedSampler("all")


class TestAdaptive(SamplerContract):
    def make(self):
        return SpreadSampler()


class TestLinearRidge(SurrogateContract):
    def make(self):
        return LinearRidge()


class TestPairwiseRidge(SurrogateContract):
    def make(self):
        return PairwiseRidge()


class TestHammingProcess(SurrogateContract):
    def make(self):
        return HammingProcess()


class TestPaperMLP(SurrogateContract):
    def make(self):
        return PaperMLP(random_state=0)


class TestBootstrapEnsemble(SurrogateContract):
    def make(self):
        return BootstrapEnsemble(n_members=3, random_state=0)


class TestBestSurrogate(SurrogateContract):
    def make(self):
        return BestSurrogate([LinearRidge(), PairwiseRidge(), DecisionTreeRegressor(random_state=0)], random_state=0)


class TestBestSurrogateWithoutClosedForms(SurrogateContract):
    def make(self):
        return BestSurrogate([LinearRegression()], random_state=0)


class TestRegressorOfScikitLearn(SurrogateContract):
    def make(self):
        return LinearRegression()


class TestTree(SurrogateContract):
    def make(self):
        return DecisionTreeRegressor(random_state=0)


class TestShapleyRanking(SelectorContract):
    def make(self):
        return selection.ShapleyRanking()


class TestGreedy(SelectorContract):
    def make(self):
        return selection.Greedy()


class TestGreedyWithBounds(SelectorContract):
    def make(self):
        return selection.Greedy(bounded=True)


class TestSurrogateSearch(SelectorContract):
    n_layers = 8

    def make(self):
        return selection.SurrogateSearch()


class TestExhaustive(SelectorContract):
    def make(self):
        return selection.Exhaustive()


class TestPerplexityRatio(UtilityContract):
    def make(self):
        return utilities.PerplexityRatio()


class TestNegativeLogLikelihood(UtilityContract):
    def make(self):
        return utilities.NegativeLogLikelihood()


class TestKLDivergence(UtilityContract):
    def make(self):
        return utilities.KLDivergence()


class TestKLOfTheMostProbable(UtilityContract):
    def make(self):
        return utilities.KLDivergence(top_k=20)


class TestExactMatch(UtilityContract):
    def make(self):
        return utilities.ExactMatch()


class TestWeightedSum(UtilityContract):
    def make(self):
        return utilities.WeightedSum((utilities.PerplexityRatio(), utilities.KLDivergence()), (1.0, 0.2))


class OfTasks(UtilityContract):
    """The utilities that tasks make for their own sequences."""

    @pytest.fixture(autouse=True)
    def tasks_of_all_kinds(self, gpt2):
        choice = tasks.multiple_choice(load_task("arc_easy")[:5], gpt2[1])
        words = tasks.last_word([{"text": "It was the best of times"}] * 3, gpt2[1])
        self.tasks = {"choice": choice, "words": words, "mixture": tasks.mixture([choice, words])}

    @pytest.fixture(autouse=True)
    def the_sequences_of_one(self, tasks_of_all_kinds):
        self.task = self.tasks[self.kind]
        self.n_sequences = self.task.calibration.n_sequences

    def make(self):
        return self.task.utility if self.metric is None else self.task.metrics[self.metric]


class TestChoiceLogProbability(OfTasks):
    kind, metric = "choice", None


class TestChoiceAccuracy(OfTasks):
    kind, metric = "choice", "acc"


class TestChoiceAccuracyByCharacters(OfTasks):
    kind, metric = "choice", "acc_norm"


class TestLastWord(OfTasks):
    kind, metric = "words", "acc"


class TestMixture(OfTasks):
    kind, metric = "mixture", None


class TestOneOfAMixture(OfTasks):
    kind, metric = "mixture", "multiple_choice/acc"

"""What `fit` promises: never worse than greedy, the same result when resumed, within its budget, errors before work."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import KNeighborsRegressor
from sklearn.tree import DecisionTreeClassifier

from layershap import (
    BootstrapEnsemble,
    Calibration,
    Exhaustive,
    Greedy,
    LayerGame,
    LayerPruner,
    PairwiseRidge,
    PaperMLP,
    ShapleyRanking,
    StratifiedValues,
    SurrogateSearch,
    TiedSelectionWarning,
)
from layershap.baselines import SLEB
from layershap.datasets import load_calibration_text, load_task, tiny_random
from layershap.masks import subsets
from layershap.samplers import StratifiedSampler
from layershap.tasks import multiple_choice
from layershap.utilities import OnSequences, PerplexityRatio, WeightedSum

from .helpers.texts import IDS, STORY


@pytest.fixture(scope="module")
def texts(stories):
    """40 sequences of 16 tokens: a story and random tokens in turn."""
    ids = Calibration.from_texts([STORY * 8], stories[1], seq_len=16, n_sequences=40).ids_ST
    ids[1::2] = torch.randint(3, 500, (20, 16), generator=torch.Generator().manual_seed(0))
    return Calibration(ids, ids.clone())


def mask_of(method, n_layers, n_remove):
    return ~np.isin(np.arange(n_layers), method.removed_layers(n_remove))


def test_never_worse_than_greedy_on_all_calibration_data(stories, texts):
    """Where nothing is held back and nothing raced: by construction."""
    search = SurrogateSearch(held_back=0.0)
    pruner = LayerPruner(selector=search, confidence=1.0, max_remove=4, random_state=0).fit(stories[0], texts)
    greedy = LayerPruner(selector=Greedy(), confidence=1.0, max_remove=4, random_state=0).fit(stories[0], texts)
    sleb = SLEB(early_barrier=0, latter_barrier=0, max_remove=4).fit(stories[0], texts)
    with LayerGame(stories[0], texts) as game:
        for n_remove in range(1, 5):
            best, *paths = (game(mask_of(method, 5, n_remove)[None])[0] for method in (pruner, greedy, sleb))
            assert paths[0] == paths[1]
            assert best >= paths[0]


def test_a_raced_fit_is_resumed_to_the_same_result(stories, texts, tmp_path):
    def fit(ledger):
        return LayerPruner(max_remove=3, random_state=0, ledger=ledger).fit(stories[0], texts)

    whole = fit(tmp_path / "whole.jsonl")
    parts = sorted(tmp_path.glob("whole.jsonl.*"))
    assert len(parts) == 3 + 1  # 4 sequences, then 4, 8 and 14, and 10 held back
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "half.jsonl").write_text("".join(lines[: len(lines) // 2]))
    for name in ("whole.jsonl", "half.jsonl"):
        again = fit(tmp_path / name)
        assert np.array_equal(again.masks_, whole.masks_)
        assert np.array_equal(again.scores_, whole.scores_)
        assert np.array_equal(again.final_masks_, whole.final_masks_)
        assert np.array_equal(again.contributions_, whole.contributions_)
        assert again.diagnostics_["layer_run_tokens"] == whole.diagnostics_["layer_run_tokens"]
        assert again.diagnostics_["layer_runs"] < whole.diagnostics_["layer_runs"]


def test_a_utility_that_knows_its_sequences_by_number_has_all_of_them(stories, texts):
    task = multiple_choice(load_task("arc_easy")[:10], stories[1])
    assert len(task.calibration.ids_ST) > 32
    parts = WeightedSum((OnSequences(PerplexityRatio(), 0, 20), OnSequences(PerplexityRatio(), 20, 40)), (1.0, 1.0))
    for utility, data in ((task.utility, task.calibration), (parts, texts)):
        pruner = LayerPruner(utility=utility, max_remove=1, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = pruner.fit(stories[0], data).diagnostics_["calibration"]
        assert (text["n_searched"], text["n_held_back"]) == (data.n_sequences, 0)
    whole = WeightedSum((PerplexityRatio(),), (1.0,))
    text = LayerPruner(utility=whole, max_remove=1, random_state=0).fit(stories[0], texts).diagnostics_["calibration"]
    assert (text["n_searched"], text["n_held_back"], text["n_for_values"]) == (30, 10, 16)


@pytest.mark.parametrize(
    ("selector", "sampler"),
    [
        (SurrogateSearch(), StratifiedSampler(leave_one_out=True, neighbours=True)),
        (SurrogateSearch(), StratifiedSampler()),
        (SurrogateSearch(), StratifiedSampler(replace=True)),
        (Greedy(), StratifiedSampler()),
        (Exhaustive(), StratifiedSampler()),
    ],
    ids=repr,
)
@pytest.mark.parametrize("more", [0, 7])
def test_the_stated_minimum_of_masks_suffices(stories, stories_calibration, selector, sampler, more):
    least = max(selector.n_required(5, 2), 6)
    pruner = LayerPruner(selector=selector, sampler=sampler, n_masks=least + more, max_remove=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner.fit(stories[0], stories_calibration)
    assert pruner.diagnostics_["n_evaluated"] <= least + more + 2  # and the model as it is, and the empty coalition
    assert len(pruner.removed_layers(2)) == 2


class AllPairs:
    """Evaluates the pairs only."""

    held_back = 0.25

    def n_required(self, n_players, max_remove):
        return n_players * (n_players + 1) // 2

    def n_useful(self, n_players, max_remove):
        return self.n_required(n_players, max_remove)

    def search(self, game, surrogate, max_remove, rng):
        game(subsets(np.ones(game.n_players, dtype=bool), 2))

    def select(self, evidence, n_remove):
        return SurrogateSearch().select(evidence, n_remove)


def test_a_size_that_was_not_evaluated_has_no_final_set(stories):
    ids = torch.randint(1, 500, (40, 24), generator=torch.Generator().manual_seed(0))
    pruner = LayerPruner(selector=AllPairs(), sampler=StratifiedSampler([3]), max_remove=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner.fit(stories[0], Calibration(ids, ids.clone()))
    assert [(~mask).sum() for mask in pruner.final_masks_] == [0, 2, 0]
    assert np.array_equal(np.flatnonzero(~pruner.final_masks_[1]), pruner.removed_layers(2))
    with pytest.raises(ValueError, match="no set of 1 layers"):
        pruner.removed_layers(1)
    assert np.isnan(pruner.removal_probabilities_[0]).all()
    assert pruner.removal_probabilities_[1].sum() == pytest.approx(2)


class Coarse:
    """A perplexity ratio rounded to an integer, on which sets tie."""

    statistics = PerplexityRatio().statistics

    def score(self, statistics):
        return PerplexityRatio().score(statistics).round(0)


def test_ties_are_told_by_greedy_and_by_the_final_choice(stories, texts):
    with pytest.warns(TiedSelectionWarning, match="sets of 1 layers score 1 "):
        LayerPruner(utility=Coarse(), max_remove=1, random_state=0).fit(stories[0], texts)
    greedy = LayerPruner(selector=Greedy(), utility=Coarse(), max_remove=1, random_state=0).fit(stories[0], texts)
    with pytest.warns(TiedSelectionWarning, match="sets of 1 layers score 1 "):
        greedy.removed_layers(1)


class LogAccuracy:
    """Not finite on resamples without a hit."""

    statistics = ("hits",)

    def score(self, statistics):
        with np.errstate(divide="ignore"):
            return np.log(statistics.sums["hits"].sum(axis=1) / statistics.counts.sum())


def test_resamples_without_a_finite_score_are_left_out(gpt2):
    ids = Calibration.from_texts(load_calibration_text(), gpt2[1], seq_len=12, n_sequences=6).ids_ST
    pruner = LayerPruner(utility=LogAccuracy(), max_remove=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner.fit(gpt2[0], Calibration(ids, ids.clone()))
    assert np.isfinite(np.delete(pruner.contributions_, pruner.veto_players_)).all()


def test_bad_input_is_refused_before_work():
    model = tiny_random("gpt2", n_layers=5)
    for wrong in (0.5, 1.5, float("nan"), True, "sure"):
        with pytest.raises(ValueError, match=r"confidence must lie in \(0\.5, 1\]"):
            LayerPruner(confidence=wrong).fit(model, IDS)
    with pytest.raises(ValueError, match=r"SurrogateSearch's held_back must lie in \[0, 1\), got 1"):
        LayerPruner(selector=SurrogateSearch(held_back=1)).fit(model, IDS)
    with pytest.raises(TypeError, match=r"max_remove must be an int in \[1, 4\] .*, got 2\.5"):
        LayerPruner(max_remove=2.5).fit(model, IDS)
    for wrong, error in ((0, ValueError), (-1, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match=r"n_marginals must be an int in \[1, 2000000\]"):
            LayerPruner(values=StratifiedValues(n_marginals=wrong)).fit(model, IDS)
    deep = tiny_random("llama", n_layers=24)
    with pytest.raises(ValueError, match=r"sets of up to 16 of 24 layers exceed Exhaustive's max_masks=70000"):
        LayerPruner(selector=Exhaustive()).fit(deep, IDS)


class Draws:
    """A sampler that returns so many masks, whatever it is asked for."""

    def __init__(self, count):
        self.count = count

    def sample(self, n_layers, n_masks, rng):
        return rng.random((self.count, n_layers)) < 0.5


def test_a_sampler_that_returns_none_or_too_many_is_named():
    model = tiny_random("gpt2", n_layers=5)
    with pytest.raises(ValueError, match="Draws returned none of"):
        LayerPruner(sampler=Draws(0)).fit(model, IDS)
    with pytest.raises(ValueError, match=r"at most the masks asked for, .* got 5000"):
        LayerPruner(sampler=Draws(5000)).fit(model, IDS)


class Refuses:
    """A model that must not be run: what is wrong is found before."""

    def __call__(self, model):
        raise AssertionError("a mask was paid for")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"surrogate": PairwiseRidge(alphas=(0,))}, ValueError, "alpha"),
        ({"surrogate": PairwiseRidge(alphas=())}, ValueError, "alphas must hold at least one"),
        ({"surrogate": PaperMLP(decay_every=0)}, ValueError, "decay_every must be an int of at least 1, or None"),
        ({"surrogate": PaperMLP(batch_size=0)}, ValueError, "batch_size must be an int of at least 1, got 0"),
        ({"surrogate": BootstrapEnsemble(n_members=1)}, ValueError, "n_members must be an int of at least 2"),
        ({"surrogate": DecisionTreeClassifier()}, TypeError, "must be a regressor, got the classifier"),
        ({"surrogate": PaperMLP(learning_rate=float("nan"))}, ValueError, "learning_rate must be a positive number"),
        ({"surrogate": KNeighborsRegressor(41)}, ValueError, "n_neighbors"),
        ({"values": StratifiedValues(n_marginals=10**9)}, ValueError, r"n_marginals must be an int in \[1, 2000000\]"),
        ({"sampler": StratifiedSampler([99])}, ValueError, "a stratum must keep between 0 and 5 layers, got 99"),
        ({"sampler": StratifiedSampler(["a"])}, TypeError, "strata must be ints"),
        ({"selector": Exhaustive(max_masks="all")}, TypeError, "max_masks must be an int of at least 1"),
        ({"selector": SurrogateSearch(n_parents=0)}, ValueError, "n_parents must be an int of at least 1"),
        ({"max_remove": 9}, ValueError, r"max_remove must be an int in \[1, 4\]"),
        ({"n_masks": 3}, ValueError, "n_masks must exceed"),
        ({"protect": [7]}, ValueError, "layer indices must lie in"),
        ({"random_state": "x"}, ValueError, "cannot be used to seed"),
        ({"n_remove": 0}, ValueError, r"n_remove must lie in \[1, 4\]"),
        ({"n_remove": 1.5}, TypeError, r"a fraction of the layers in \(0, 1\), got 1\.5"),
        ({"n_remove": "2"}, TypeError, "must be an int, or a fraction"),
    ],
)
def test_what_can_not_work_is_refused_before_a_mask_is_paid_for(settings, error, message):
    model = tiny_random("gpt2", n_layers=5)
    with pytest.raises(error, match=message):
        LayerPruner(utility=Refuses(), **settings).fit(model, IDS)


def test_a_utility_whose_scores_have_the_wrong_shape_is_named(stories, texts):
    class Summed:
        statistics = ("nll",)

        def score(self, statistics):
            return statistics.sums["nll"].sum()

    with pytest.raises(ValueError, match=r"one real number for each mask, \[1\]; Summed\.score gave float64 \[\]"):
        LayerPruner(utility=Summed()).fit(stories[0], texts)


@pytest.mark.parametrize("chosen", [[1], [1, 1], [0.5, 1.5], [0, 9], [0, 4]])
def test_a_selector_that_returns_something_else_is_not_obeyed(stories, stories_calibration, chosen):
    class Fixed:
        def select(self, evidence, n_remove):
            return np.array(chosen)

    pruner = LayerPruner(selector=Fixed(), protect=[4], n_masks=16, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner.fit(stories[0], stories_calibration)
    with pytest.raises(ValueError, match=r"2 distinct indices of removable layers when asked for 2; Fixed returned"):
        pruner.removed_layers(2)


def test_a_fraction_of_the_layers(stories, stories_calibration):
    pruner = LayerPruner(0.4, max_remove=2, random_state=0).fit(stories[0], stories_calibration)
    assert pruner.removed_layers() == pruner.removed_layers(2)
    assert pruner.removed_layers(0.1) == pruner.removed_layers(1)
    assert pruner.transform(stories[0]).config.num_hidden_layers == 3


class FailsLater:
    """A surrogate that learns made-up scores, but not those of a model of 5 layers."""

    def fit(self, masks, scores):
        if masks.shape[1] == 5:
            raise ArithmeticError("no")
        self.mean = float(np.mean(scores))

    def predict(self, masks):
        return np.full(len(masks), self.mean)


class SelectsNothing:
    """A selector that fails when it is asked: the last step of a fit."""

    def select(self, evidence, n_remove):
        raise ArithmeticError("no")


def test_a_refit_that_fails_leaves_the_estimator_as_it_was(stories, stories_calibration):
    first = tiny_random("gpt2", n_layers=4)
    pruner = LayerPruner(
        selector=ShapleyRanking(), n_masks=16, values=StratifiedValues(keep_veto=False), random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner.fit(first, IDS)
    before, report = pruner.contributions_.copy(), pruner.report_
    with pytest.raises(ArithmeticError):
        pruner.set_params(surrogate=FailsLater()).fit(stories[0], stories_calibration)
    assert np.array_equal(pruner.contributions_, before)
    assert pruner.report_.layers == report.layers
    pruner.set_params(surrogate=None, selector=SelectsNothing())
    with pytest.raises(ArithmeticError):
        pruner.fit(stories[0], stories_calibration)
    assert np.array_equal(pruner.contributions_, before)
    assert pruner.set_params(selector=ShapleyRanking()).report_.layers == report.layers
    never = LayerPruner(surrogate=FailsLater(), values=StratifiedValues(keep_veto=False), random_state=0)
    with pytest.raises(ArithmeticError):
        never.fit(stories[0], stories_calibration)
    with pytest.raises(NotFittedError):
        never.removed_layers(1)

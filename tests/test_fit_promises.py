"""What `fit` promises: never worse than greedy, the same result when resumed, within its budget, errors before work."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from layershap import (
    Calibration,
    Exhaustive,
    Greedy,
    LayerGame,
    LayerPruner,
    ShapleyRanking,
    SurrogateSearch,
    TiedSelectionWarning,
)
from layershap.baselines import SLEB
from layershap.datasets import load_calibration_text, load_task, tiny_random
from layershap.fitting.budget import spend
from layershap.fitting.masks import default_masks
from layershap.samplers import AntitheticSampler, StratifiedSampler
from layershap.selection.neighbourhoods import subsets
from layershap.tasks import multiple_choice
from layershap.utilities import OnSequences, PerplexityRatio, WeightedSum
from tests.conftest import STORY

IDS = torch.randint(1, 60, (6, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def texts(stories):
    """40 sequences of 16 tokens: a story and random tokens in turn."""
    ids = Calibration.from_texts([STORY * 8], stories[1], seq_len=16, n_sequences=40).ids_ST
    ids[1::2] = torch.randint(3, 500, (20, 16), generator=torch.Generator().manual_seed(0))
    return Calibration(ids, ids.clone())


def mask_of(method, n_layers, n_remove):
    return ~np.isin(np.arange(n_layers), method.removed_layers(n_remove))


def test_never_worse_than_greedy_on_all_calibration_data(stories, texts):
    pruner = LayerPruner(max_remove=4, random_state=0).fit(stories[0], texts)
    greedy = LayerPruner(selector=Greedy(), max_remove=4, random_state=0).fit(stories[0], texts)
    sleb = SLEB(early_barrier=0, latter_barrier=0, max_remove=4).fit(stories[0], texts)
    with LayerGame(stories[0], texts) as game:
        for n_remove in range(1, 5):
            best, *paths = (game(mask_of(method, 5, n_remove)[None])[0] for method in (pruner, greedy, sleb))
            assert paths[0] == paths[1]
            assert best >= paths[0]


def test_a_part_of_the_text_is_of_every_kind_where_kinds_alternate(stories, texts):
    pruner = LayerPruner(max_remove=1, search_sequences=20, random_state=0).fit(stories[0], texts)
    odd = pruner.diagnostics_["calibration"]
    assert (odd["n_sequences"], odd["sequences_given"]) == (20, 40)
    part = spend(texts, None, None, None, 20, SurrogateSearch(), 5, 0, 1).calib_data.ids_ST
    of_novel = sum(bool((row == texts.ids_ST[::2]).all(dim=1).any()) for row in part)
    assert 5 <= of_novel <= 15


def test_a_fit_within_a_budget_is_resumed_to_the_same_result(stories, texts, tmp_path):
    budget = 2 * (default_masks(SurrogateSearch(), 5, 3) * 3 + 5) * 16

    def fit(ledger):
        return LayerPruner(budget=budget, max_remove=3, random_state=0, ledger=ledger).fit(stories[0], texts)

    whole = fit(tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "half.jsonl").write_text("".join(lines[: len(lines) // 2]))
    for name in ("whole.jsonl", "half.jsonl"):
        again = fit(tmp_path / name)
        assert np.array_equal(again.masks_, whole.masks_)
        assert np.array_equal(again.scores_, whole.scores_)
        assert np.array_equal(again.final_masks_, whole.final_masks_)
        assert again.diagnostics_["layer_run_tokens"] == whole.diagnostics_["layer_run_tokens"]
        assert again.diagnostics_["layer_runs"] < whole.diagnostics_["layer_runs"]


@pytest.mark.parametrize("selector", [SurrogateSearch(), Greedy(), ShapleyRanking(), Exhaustive()], ids=repr)
@pytest.mark.parametrize("share", [1.0, 1.6])
def test_a_budget_is_kept_from_its_stated_minimum_on(stories, texts, selector, share):
    pruner = LayerPruner(selector=selector, budget=1, max_remove=2, random_state=0)
    with pytest.raises(ValueError, match="The minimum is") as refused:
        pruner.fit(stories[0], texts)
    least = float(str(refused.value).split("The minimum is ")[1].split(";")[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner.set_params(budget=share * least).fit(stories[0], texts)
    assert least / 3 < pruner.diagnostics_["layer_run_tokens"] <= share * least


def test_protected_layers_need_no_budget(stories, texts):
    with pytest.raises(ValueError, match="up to 2 of 3 removable layers") as refused:
        LayerPruner(budget=1, protect=[0, 1]).fit(stories[0], texts)
    least = float(str(refused.value).split("The minimum is ")[1].split(";")[0])
    assert LayerPruner(budget=least, protect=[0, 1], random_state=0).fit(stories[0], texts).max_remove_ == 2


def test_a_utility_that_knows_its_sequences_by_number_has_all_of_them(stories, texts):
    task = multiple_choice(load_task("arc_easy")[:10], stories[1])
    assert len(task.calibration.ids_ST) > 32
    LayerPruner(utility=task.utility, max_remove=1, random_state=0).fit(stories[0], task.calibration)
    parts = WeightedSum((OnSequences(PerplexityRatio(), 0, 20), OnSequences(PerplexityRatio(), 20, 40)), (1.0, 1.0))
    for utility, data in ((task.utility, task.calibration), (parts, texts)):
        with pytest.raises(ValueError, match=r"belong together.*search_sequences at None, got 8"):
            LayerPruner(utility=utility, search_sequences=8).fit(stories[0], data)
    whole = WeightedSum((PerplexityRatio(),), (1.0,))
    pruner = LayerPruner(utility=whole, search_sequences=8, max_remove=1, random_state=0).fit(stories[0], texts)
    assert pruner.diagnostics_["final_sequences"] == 40


@pytest.mark.parametrize(
    ("selector", "sampler"),
    [
        (SurrogateSearch(), AntitheticSampler()),
        (SurrogateSearch(), StratifiedSampler()),
        (SurrogateSearch(), StratifiedSampler(replace=True)),
        (Greedy(), StratifiedSampler()),
        (Exhaustive(), AntitheticSampler()),
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
    assert pruner.diagnostics_["n_evaluated"] <= least + more + 1
    assert len(pruner.removed_layers(2)) == 2


class AllPairs:
    """Evaluates the pairs only."""

    def n_required(self, n_players, max_remove):
        return n_players * (n_players + 1) // 2

    def n_useful(self, n_players, max_remove):
        return self.n_required(n_players, max_remove)

    def search(self, game, surrogate, max_remove, rng):
        game(subsets(np.ones(game.n_players, dtype=bool), 2))

    def select(self, evidence, n_remove):
        return SurrogateSearch().select(evidence, n_remove)


def test_a_size_that_was_not_evaluated_has_no_final_set(stories):
    ids = torch.randint(1, 500, (8, 24), generator=torch.Generator().manual_seed(0))
    pruner = LayerPruner(
        selector=AllPairs(), sampler=StratifiedSampler([3]), search_sequences=4, max_remove=3, random_state=0
    )
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
        LayerPruner(utility=Coarse(), search_sequences=8, max_remove=1, random_state=0).fit(stories[0], texts)
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
    assert np.isfinite(pruner.contributions_).all()


def test_bad_input_is_refused_before_work():
    model = tiny_random("gpt2", n_layers=5)
    for wrong in (float("inf"), float("nan"), -1.0, "much"):
        with pytest.raises(ValueError, match="budget must be a positive, finite number"):
            LayerPruner(budget=wrong).fit(model, IDS)
    with pytest.raises(TypeError, match=r"max_remove must be an int, got 2\.5"):
        LayerPruner(budget=1e5, max_remove=2.5).fit(model, IDS)
    with pytest.raises(ValueError, match="search_sequences=3 with it"):
        LayerPruner(budget=1e5, search_sequences=3).fit(model, IDS)
    for wrong in (0, -1, 2.5):
        with pytest.raises(ValueError, match="n_marginals must be a positive int"):
            LayerPruner(n_marginals=wrong).fit(model, IDS)
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

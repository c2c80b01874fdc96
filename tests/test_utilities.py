"""Utilities of language modelling against their definitions, on real masked models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from layershap import LayerGame, LayerPruner, skip_layers, tasks
from layershap.datasets import load_calibration_text, load_task
from layershap.utilities import ExactMatch, KLDivergence, NegativeLogLikelihood, PerplexityRatio
from layershap.utilities.naming import score_name

MASKS = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 0, 1, 1, 0]], dtype=bool)


def logits(model, ids, removed):
    with torch.inference_mode(), skip_layers(model, removed):
        return model(ids).logits[:, :-1].double()


def test_perplexity_ratio_and_likelihood(stories, stories_calibration):
    model, ids = stories[0], stories_calibration.ids_ST
    nll = [
        float(nn.functional.cross_entropy(logits(model, ids, np.flatnonzero(~m)).flatten(0, 1), ids[:, 1:].flatten()))
        for m in MASKS
    ]
    ratio = LayerGame(model, stories_calibration, utility=PerplexityRatio())(MASKS)
    assert ratio == pytest.approx(np.exp(nll[0] - np.array(nll)), rel=1e-4)
    assert LayerGame(model, stories_calibration, utility=NegativeLogLikelihood())(MASKS) == pytest.approx(
        -np.array(nll), rel=1e-4
    )


@pytest.mark.parametrize("top_k", [1, 5, 100, None])
def test_kl_with_all_but_the_likeliest_tokens_as_one(stories, stories_calibration, top_k):
    model, ids = stories[0], stories_calibration.ids_ST
    expected = []
    for mask in MASKS:
        p = logits(model, ids, []).softmax(-1).reshape(-1, 512)
        q = logits(model, ids, np.flatnonzero(~mask)).softmax(-1).reshape(-1, 512)
        if top_k is not None:
            order = p.argsort(dim=-1, descending=True)[:, :top_k]
            rest_p, rest_q = (x.scatter(1, order, 0.0).sum(dim=1, keepdim=True) for x in (p, q))
            p, q = torch.cat([p.gather(1, order), rest_p], 1), torch.cat([q.gather(1, order), rest_q], 1)
        expected.append(-float((p * (p / q).log()).sum(dim=1).mean()))
    game = LayerGame(model, stories_calibration, utility=KLDivergence(top_k))
    assert game(MASKS) == pytest.approx(expected, abs=1e-5)
    assert game.path == "fused"


def test_top_k_grows_to_the_whole_divergence(stories, stories_calibration):
    scores = [LayerGame(stories[0], stories_calibration, utility=KLDivergence(k))(MASKS) for k in (1, 20, 511, None)]
    assert np.all(np.diff([score[1:] for score in scores], axis=0) <= 1e-6)
    assert scores[2] == pytest.approx(scores[3], abs=1e-5)
    more_than_there_are = LayerGame(stories[0], stories_calibration, utility=KLDivergence(600))(MASKS)
    assert more_than_there_are == pytest.approx(scores[3], abs=1e-6)


def test_ledgers_of_different_k_do_not_mix(stories, stories_calibration, tmp_path):
    LayerGame(stories[0], stories_calibration, utility=KLDivergence(5), ledger=tmp_path / "masks.jsonl")(MASKS)
    with pytest.raises(ValueError, match="statistics"):
        LayerGame(stories[0], stories_calibration, utility=KLDivergence(6), ledger=tmp_path / "masks.jsonl")


def test_hits_alone_are_checked_by_their_likelihood(stories, stories_calibration):
    game = LayerGame(stories[0], stories_calibration, utility=ExactMatch())
    assert set(game.statistics(MASKS).sums) == {"hits"}
    assert set(game.engine.forward.statistics) == {"hits", "nll"}


def test_any_callable_is_a_utility_on_the_plain_path(stories, stories_calibration):
    ids = stories_calibration.ids_ST

    def likelihood(model):
        return -float(model(ids, labels=ids).loss)

    game = LayerGame(stories[0], stories_calibration, utility=likelihood)
    expected = LayerGame(stories[0], stories_calibration, utility=NegativeLogLikelihood())
    assert game(MASKS) == pytest.approx(expected(MASKS), abs=1e-4)
    assert (game.path, expected.path) == ("callable", "fused")


def test_a_utility_of_ones_own_needs_two_methods(stories, stories_calibration):
    class WorstSequence:
        """The score of the sequence that suffers most."""

        statistics = ("nll",)

        def score(self, statistics):
            return ((statistics.dense["nll"] - statistics.sums["nll"]) / statistics.counts).min(axis=1)

    pruner = LayerPruner(utility=WorstSequence(), max_remove=2, n_masks=20, random_state=0)
    pruner.fit(stories[0], stories_calibration)
    assert pruner.baseline_score_ == 0
    assert len(pruner.removed_layers(2)) == 2


def test_bad_utilities(stories, stories_calibration):
    class Unknown:
        statistics = ("entropy",)

        def score(self, statistics):
            return statistics.sums["entropy"].sum(axis=1)

    with pytest.raises(ValueError, match="'nll', 'hits', 'kl' or 'kl_top' and a number, got 'entropy'"):
        LayerGame(stories[0], stories_calibration, utility=Unknown())(MASKS)
    for wrong, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="top_k must be an int of at least 1, or None for all tokens"):
            KLDivergence(wrong)


class Returns:
    """A utility whose score is whatever it is made with."""

    statistics = ("nll",)

    def __init__(self, found):
        self.found = found

    def score(self, statistics):
        return self.found


@pytest.mark.parametrize("found", [1.0, [1.0], [[1.0], [2.0]], ["a", "b"], [1j, 2j], None, [None, None]])
def test_what_a_utility_returns_is_one_number_for_each_mask(stories, stories_calibration, found):
    game = LayerGame(stories[0], stories_calibration, utility=Returns(found))
    with pytest.raises(ValueError, match=r"one real number for each mask, \[2\]; Returns\.score gave"):
        game(MASKS[:2])


def test_what_a_function_returns_is_one_number(stories, stories_calibration):
    numbers = [1, 1.0, True, np.float32(1), np.ones(1), torch.tensor(1), torch.ones(1, 1, dtype=torch.bfloat16)]
    numbers.append(torch.ones((), requires_grad=True))
    for number in numbers:
        game = LayerGame(stories[0], stories_calibration, utility=lambda model, number=number: number)
        assert game(MASKS[:2]).tolist() == [1, 1]
    for wrong in (None, "1.0", 1j, [1.0, 2.0], torch.ones(2), {"score": 1.0}, {1.0}, np.array(None)):

        def utility(model, wrong=wrong):
            return wrong

        game = LayerGame(stories[0], stories_calibration, utility=utility)
        with pytest.raises(TypeError, match=r"one real number for each model, .*utility returned"):
            game(MASKS)
        assert game.n_evaluated == 0


def test_standard_errors_of_scores(stories, stories_calibration):
    game = LayerGame(stories[0], stories_calibration, utility=NegativeLogLikelihood())
    statistics = game.statistics(MASKS)
    means = statistics.sums["nll"] / statistics.counts
    assert len(set(statistics.counts)) == 1
    expected = means.std(axis=1) / np.sqrt(stories_calibration.n_sequences)  # of a bootstrap of a mean, exactly
    n_evaluated = game.n_evaluated
    assert game.standard_errors(MASKS, n_resamples=4000) == pytest.approx(expected, rel=0.05)
    assert np.array_equal(game.standard_errors(MASKS), game.standard_errors(MASKS))
    assert game.n_evaluated == n_evaluated

    whole = LayerGame(stories[0], stories_calibration).standard_errors(np.ones(stories[0].config.num_hidden_layers))
    assert whole.tolist() == [0]  # a ratio to itself
    for made in (
        LayerGame(stories[0], stories_calibration, utility=lambda model: 1.0),
        LayerGame(stories[0], stories_calibration.ids_ST[:1]),
    ):
        with pytest.raises(ValueError, match="two sequences at least"):
            made.standard_errors(MASKS)


def test_standard_errors_of_a_task_are_of_its_questions(gpt2):
    task = tasks.multiple_choice(load_task("copa")[:30], gpt2[1], name="copa")
    game = LayerGame(gpt2[0], task)
    whole = np.ones((1, 12), dtype=bool)
    per_question = task.utility.per_question(game.statistics(whole))[0]
    assert game.standard_errors(whole, n_resamples=2000)[0] == pytest.approx(
        per_question.std() / np.sqrt(len(per_question)), rel=0.1
    )


def test_a_score_has_a_name_not_its_arrays(gpt2):
    tokenizer = gpt2[1]
    copa = tasks.multiple_choice(load_task("copa")[:40], tokenizer, name="copa", normalise="tokens")
    text = tasks.text(load_calibration_text(), tokenizer, n_sequences=3)
    both = tasks.mixture([copa, text], [1.0, 2.5])

    class Own:
        def __init__(self):
            self.table = np.arange(1000)

    @dataclass(frozen=True)
    class Weighted:
        weights: object
        floor: float = 0.0
        label: str = "plain"

    names = {score_name(u): u for u in (copa.utility, copa.metrics["acc"], both.utility, KLDivergence(7), Own())}
    assert list(names) == [
        "ChoiceLogProbability(normalise='tokens')",
        "ChoiceAccuracy",
        "1 x ChoiceLogProbability(normalise='tokens') + 2.5 x PerplexityRatio",
        "KLDivergence(top_k=7)",
        "Own",
    ]
    assert score_name(Weighted(np.arange(9), floor=0.5)) == "Weighted(floor=0.5)"
    assert score_name(PerplexityRatio()) == "PerplexityRatio"
    assert score_name(logits) == "logits"
    assert "array" not in repr(copa.utility)
    pruner = LayerPruner(max_remove=1, n_masks=16, random_state=0, utility=copa.utility).fit(gpt2[0], copa.calibration)
    assert pruner.report_.fit.utility == "ChoiceLogProbability(normalise='tokens')"
    assert len(str(pruner.report_.tables()["summary"])) < 2000

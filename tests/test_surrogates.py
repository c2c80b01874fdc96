"""Closed forms, the ensemble's spread, choice by cross-validation, and quality per stratum."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LinearRegression

from layershap import (
    BestSurrogate,
    BootstrapEnsemble,
    HammingProcess,
    LayerPruner,
    LinearRidge,
    PairwiseRidge,
    PaperMLP,
    ShapleyRanking,
    StratifiedSampler,
    shapley,
)
from layershap.fitting.heldout import held_out
from layershap.protocols import ClosedFormSurrogate, RefittableSurrogate


def pairwise_game(n, seed=0, strength=1.0):
    generator = np.random.default_rng(seed)
    main, pairs = generator.normal(size=n), strength * np.triu(generator.normal(size=(n, n)), 1)

    def game(masks):
        removed = (~np.asarray(masks)).astype(float)
        return 1 + removed @ main + np.einsum("mi,ij,mj->m", removed, pairs, removed)

    return game


def drawn(n, m, seed=0):
    return StratifiedSampler(leave_one_out=True).sample(n, m, np.random.default_rng(seed))


def test_linear_ridge_recovers_an_additive_game():
    game = pairwise_game(6, strength=0)
    masks = shapley.all_masks(6)
    model = LinearRidge([1e-10]).fit(masks, game(masks))
    assert model.predict(masks) == pytest.approx(game(masks), abs=1e-6)
    assert model.shapley_values() == pytest.approx(shapley.exact(game, 6), abs=1e-6)
    assert np.array_equal(model.shapley_values([4]), model.shapley_values())
    assert not model.interaction_values().any()


@pytest.mark.parametrize("index", ["k-SII", "STII", "FSII"])
def test_pairwise_interactions_are_exact_under_every_index(index):
    """Order-2 indices agree on a game of order 2."""
    game = pairwise_game(6)
    masks = shapley.all_masks(6)
    model = PairwiseRidge([1e-10]).fit(masks, game(masks))
    expected = shapley.interactions(game, 6, index=index).pairs
    assert model.interaction_values() == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(model.interaction_values([5, 4]), model.interaction_values())


@pytest.mark.parametrize("surrogate", [LinearRidge, PairwiseRidge])
@pytest.mark.parametrize("strata", [None, [6, 5]])
def test_refitting_to_many_scores_at_once_is_refitting_one_by_one(surrogate, strata):
    masks = drawn(8, 60)
    scores = pairwise_game(8)(masks) + np.random.default_rng(1).normal(size=(5, 60)) / 10
    model = surrogate().fit(masks, scores[0])
    assert isinstance(model, RefittableSurrogate)
    assert isinstance(model, ClosedFormSurrogate)
    expected = [surrogate([model.alpha_]).fit(masks, row).shapley_values(strata) for row in scores]
    assert model.refitted_values(masks, scores, strata) == pytest.approx(np.array(expected), abs=1e-8)


def test_the_ensembles_spread_is_larger_where_it_has_seen_nothing():
    game = pairwise_game(10)
    masks = drawn(10, 80)
    model = BootstrapEnsemble(n_members=20, random_state=0).fit(masks, game(masks))
    unseen = np.random.default_rng(2).random((200, 10)) < 0.2
    assert model.predict_spread(unseen).mean() > 3 * model.predict_spread(masks).mean()
    assert np.corrcoef(model.predict(masks), game(masks))[0, 1] > 0.9
    again = BootstrapEnsemble(n_members=20, random_state=0).fit(masks, game(masks))
    assert np.array_equal(again.predict(unseen), model.predict(unseen))
    linear = BootstrapEnsemble(LinearRegression(), n_members=3, random_state=0).fit(masks, game(masks))
    assert all(isinstance(member, LinearRegression) for member in linear.members_)
    with pytest.raises(ValueError, match="at least 2"):
        BootstrapEnsemble(n_members=1).fit(masks, game(masks))


def test_choice_by_cross_validation():
    masks = drawn(8, 80)
    noise = np.random.default_rng(3).normal(size=80) / 100
    best = BestSurrogate(random_state=0).fit(masks, pairwise_game(8)(masks) + noise)
    assert isinstance(best.chosen_, PairwiseRidge)
    assert set(best.scores_) == {"LinearRidge", "PairwiseRidge", "HammingProcess"}
    assert best.scores_["PairwiseRidge"] == max(best.scores_.values())
    few = drawn(12, 20, seed=1)
    additive = pairwise_game(12, strength=0)(few) + np.random.default_rng(4).normal(size=20) / 100
    assert isinstance(BestSurrogate(random_state=0).fit(few, additive).chosen_, LinearRidge)


@pytest.mark.parametrize("good_first", [True, False])
def test_candidates_of_one_class_are_told_apart(good_first):
    masks = drawn(8, 80)
    candidates = [PairwiseRidge(alphas=[1e-4]), PairwiseRidge(alphas=[1e4])]
    if not good_first:
        candidates.reverse()
    best = BestSurrogate([LinearRidge(), *candidates], random_state=0).fit(masks, pairwise_game(8)(masks))
    assert best.chosen_.alphas == [1e-4]
    assert list(best.scores_) == ["LinearRidge", "PairwiseRidge-1", "PairwiseRidge-2"]
    assert max(best.scores_, key=best.scores_.get) == f"PairwiseRidge-{1 if good_first else 2}"


@pytest.mark.parametrize("strength", [0, 1])
def test_the_best_surrogate_is_the_one_that_cross_validation_chooses(strength):
    """Repeated masks, and a size that is there as a whole and need not be predicted, included."""
    masks = np.concatenate([drawn(9, 50), drawn(9, 50)[20:30]])
    scores = pairwise_game(9, strength=strength)(masks) + np.random.default_rng(4).normal(size=60) / 10
    candidates = [LinearRidge(), PairwiseRidge(), PaperMLP(epochs=2), LinearRegression()]
    at_random = shapley.SampledMasks(masks, shapley.Semivalue.shapley(9)).at_random
    assert not at_random.all()
    quality = [held_out(candidate, masks, scores, 3, at_random).r2 for candidate in candidates]
    expected = candidates[int(np.argmax(quality))]
    best = BestSurrogate(candidates, random_state=3).fit(masks, scores)
    assert list(best.scores_.values()) == quality
    assert type(best.chosen_) is type(expected)
    assert best.chosen_ not in candidates
    alone = clone(expected).fit(masks, scores)
    assert np.array_equal(best.predict(masks), alone.predict(masks))
    assert np.array_equal(best.shapley_values([7, 6]), alone.shapley_values([7, 6]))
    assert all(not hasattr(candidate, "n_features_in_") for candidate in candidates)


def test_the_best_surrogate_repeats_itself_and_survives_pickling():
    masks = drawn(8, 60)
    scores = pairwise_game(8)(masks) + np.random.default_rng(4).normal(size=60) / 10
    best = BestSurrogate([PaperMLP(epochs=2), BootstrapEnsemble(n_members=2)], random_state=1).fit(masks, scores)
    assert clone(best).fit(masks, scores).scores_ == best.scores_
    again = pickle.loads(pickle.dumps(best))
    assert np.array_equal(again.predict(masks), best.predict(masks))
    assert np.array_equal(again.predict_spread(masks), best.predict_spread(masks))
    closed = pickle.loads(pickle.dumps(BestSurrogate([LinearRidge()]).fit(masks, scores)))
    assert np.array_equal(closed.shapley_values(), -closed.chosen_.main_effects_)


def test_the_best_of_candidates_that_are_none():
    masks = np.random.default_rng(0).random((60, 5)) < 0.7
    scores = masks @ np.arange(5.0)
    for wrong in (LinearRidge(), "ridge", 5, {"ridge": LinearRidge()}):
        with pytest.raises(TypeError, match="candidates must be a sequence of surrogates"):
            BestSurrogate(wrong).fit(masks, scores)
    for wrong in (LinearRidge, None, "ridge"):
        with pytest.raises(TypeError, match="candidates must be objects with fit and predict"):
            BestSurrogate([LinearRidge(), wrong]).fit(masks, scores)


class Predicts:
    def __init__(self, what):
        self.what = what

    def fit(self, masks, scores):
        return self

    def predict(self, masks):
        return self.what(masks)


def test_a_candidate_that_diverges_is_not_chosen_and_no_end_of_the_fit():
    masks = np.random.default_rng(0).random((60, 5)) < 0.7
    scores = masks @ np.arange(5.0)
    best = BestSurrogate([Predicts(lambda m: np.full(len(m), np.nan)), LinearRidge()], random_state=0)
    assert isinstance(best.fit(masks, scores).chosen_, LinearRidge)
    assert best.scores_["Predicts"] == -np.inf
    for what in (lambda m: 1.0, lambda m: np.zeros(3), lambda m: np.zeros((len(m), 1))):
        with pytest.raises(TypeError, match="one number for each mask; Predicts predicts"):
            BestSurrogate([LinearRidge(), Predicts(what)], random_state=0).fit(masks, scores)


def test_the_best_surrogate_without_a_choice():
    masks = drawn(8, 60)
    with pytest.raises(ValueError, match="at least one candidate, got an empty"):
        BestSurrogate([]).fit(masks, masks.sum(axis=1))
    flat = BestSurrogate([LinearRidge(), PairwiseRidge()]).fit(masks, np.ones(60))
    assert isinstance(flat.chosen_, LinearRidge)
    assert all(np.isnan(r2) for r2 in flat.scores_.values())
    (single,) = BestSurrogate([LinearRegression()]).fit(masks[:1], [2.0]).predict(masks[:1])
    assert single == 2.0


def test_a_fit_takes_the_best_surrogate(stories, stories_calibration):
    surrogate = BestSurrogate([LinearRidge(), HammingProcess()])
    pruner = LayerPruner(n_masks=30, surrogate=surrogate, selector=ShapleyRanking(), random_state=0)
    pruner.fit(stories[0], stories_calibration)
    assert isinstance(pruner.surrogate_, BestSurrogate)
    assert set(pruner.surrogate_.scores_) == {"LinearRidge", "HammingProcess"}
    assert np.isfinite(pruner.contributions_).all()
    assert pruner.interactions_.shape == (5, 5)
    assert np.isfinite(pruner.diagnostics_["calibration_errors"]).any(), "it was refitted"
    assert not hasattr(surrogate, "chosen_")


@pytest.mark.parametrize("surrogate", [PairwiseRidge, LinearRidge])
def test_no_penalty_to_try_is_named(surrogate):
    masks = drawn(5, 20)
    with pytest.raises(ValueError, match=r"alphas must hold at least one penalty, got \[\]"):
        surrogate(alphas=[]).fit(masks, pairwise_game(5)(masks))


@pytest.mark.parametrize("surrogate", [PairwiseRidge, LinearRidge])
@pytest.mark.parametrize("alphas", [(0,), (1.0, -1), ("a",), (float("nan"),), (float("inf"),), (True,), (1j,), 3, "ab"])
def test_penalties_are_positive_numbers(surrogate, alphas):
    masks = drawn(5, 20)
    with pytest.raises(ValueError, match="alphas must"):
        surrogate(alphas=alphas).fit(masks, pairwise_game(5)(masks))


@pytest.mark.parametrize("n_members", [0, 1, -3, 2.5, "3", True, None])
def test_an_ensemble_has_two_members_at_least(n_members):
    masks = drawn(5, 20)
    error = ValueError if type(n_members) is int else TypeError
    with pytest.raises(error, match="n_members must be an int of at least 2"):
        BootstrapEnsemble(n_members=n_members).fit(masks, pairwise_game(5)(masks))


def test_quality_per_stratum():
    masks = drawn(8, 90)
    truth = pairwise_game(8)(masks)
    found = held_out(LinearRidge(), masks, truth, 0)
    assert [stratum["n_kept"] for stratum in found.strata] == sorted(set(masks.sum(axis=1)))
    assert sum(stratum["n_masks"] for stratum in found.strata) == 90
    biases = [stratum["bias"] * stratum["n_masks"] for stratum in found.strata]
    assert sum(biases) == pytest.approx((truth - found.predictions).sum())
    perfect = held_out(PairwiseRidge([1e-8]), masks, truth, 0)
    assert perfect.r2 > 0.99 > found.r2
    assert all(stratum["slope"] == pytest.approx(1, abs=0.1) for stratum in perfect.strata if stratum["n_masks"] > 8)


def test_a_mask_drawn_twice_is_never_on_both_sides():
    """Scores are pure noise per mask: only a leak between folds could predict them."""
    masks = np.repeat(drawn(10, 60), 3, axis=0)
    scores = np.repeat(np.random.default_rng(5).normal(size=60), 3)
    from sklearn.tree import DecisionTreeRegressor

    assert held_out(DecisionTreeRegressor(random_state=0), masks, scores, 0).r2 < 0.2


@pytest.mark.parametrize("surrogate", [PaperMLP(epochs=20, random_state=0), HammingProcess()], ids=repr)
def test_the_users_torch_settings_change_nothing(surrogate):
    masks = drawn(8, 60)
    scores = pairwise_game(8)(masks)
    expected = clone(surrogate).fit(masks, scores).predict(masks)
    with torch.inference_mode():
        assert np.array_equal(clone(surrogate).fit(masks, scores).predict(masks), expected)
    try:
        torch.set_default_device("meta")
        assert np.array_equal(clone(surrogate).fit(masks, scores).predict(masks), expected)
    finally:
        torch.set_default_device(None)


def test_pairwise_ridge_recovers_a_pairwise_game_and_its_values():
    game = pairwise_game(6)
    masks = shapley.all_masks(6)
    model = PairwiseRidge(alphas=[1e-10]).fit(masks, game(masks))
    assert model.predict(masks) == pytest.approx(game(masks), abs=1e-6)
    assert model.shapley_values() == pytest.approx(shapley.exact(game, 6), abs=1e-6)


def test_closed_form_over_strata_is_the_sampled_one():
    game = pairwise_game(6)
    masks = shapley.all_masks(6)
    model = PairwiseRidge(alphas=[1e-10]).fit(masks, game(masks))
    sampled = shapley.stratified_marginals(model.predict, 6, [5, 4], 20_000, np.random.default_rng(0))
    assert (np.abs(model.shapley_values([5, 4]) - sampled.values) < 4 * sampled.standard_errors).all()


def test_paper_network_learns_is_seeded_and_survives_pickling():
    masks = StratifiedSampler(replace=True).sample(8, 600, np.random.default_rng(0))
    scores = 1 / (1 + (~masks) @ np.linspace(0.1, 2, 8))
    model = PaperMLP(batch_size=30, random_state=0).fit(masks, scores)
    predicted = model.predict(masks)
    assert 1 - ((predicted - scores) ** 2).mean() / scores.var() > 0.5
    assert np.array_equal(clone(model).fit(masks, scores).predict(masks), predicted)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(masks), predicted)
    other = PaperMLP(batch_size=30, random_state=1).fit(masks, scores).predict(masks)
    assert not np.array_equal(other, predicted)
    assert [w.shape for w in model.weights_] == [(16, 8), (16,), (1, 16), (1,)]


@pytest.mark.parametrize("decay_every", [100, 40, None])
def test_paper_network_is_momentum_descent_whose_rate_falls_to_a_tenth_or_stays(decay_every):
    masks = StratifiedSampler(replace=True).sample(8, 60, np.random.default_rng(0))
    scores = 1 / (1 + (~masks) @ np.linspace(0.1, 2, 8))
    settings = {"batch_size": 60, "random_state": 0}
    initial = PaperMLP(epochs=1, learning_rate=1e-30, **settings).fit(masks, scores)
    inputs_ML, targets_M = torch.from_numpy(masks).double(), torch.from_numpy(scores)
    weights = [torch.from_numpy(w).double().requires_grad_() for w in initial.weights_]
    speeds = [torch.zeros_like(w) for w in weights]
    for epoch in range(130):
        rate = 0.008 * 0.1 ** (epoch // decay_every if decay_every else 0)
        hidden = torch.nn.functional.celu(inputs_ML @ weights[0].T + weights[1])
        loss = ((torch.sigmoid(hidden @ weights[2].T + weights[3])[:, 0] - targets_M) ** 2).mean()
        for weight, speed, slope in zip(weights, speeds, torch.autograd.grad(loss, weights), strict=True):
            speed.mul_(0.9).add_(slope)
            weight.data.sub_(rate * speed)
    network = PaperMLP(epochs=130, decay_every=decay_every, **settings).fit(masks, scores)
    for found, expected, before in zip(network.weights_, weights, initial.weights_, strict=True):
        assert found == pytest.approx(expected.detach().numpy(), abs=1e-5)
        assert abs(found - before).max() > 1e-3

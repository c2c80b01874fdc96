"""Values from masks drawn at random: unbiased, exact where all are there, with errors that cover; and veto players."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.dummy import DummyRegressor
from sklearn.tree import DecisionTreeRegressor

from layershap import (
    HammingProcess,
    LayerGame,
    LayerPruner,
    PairwiseRidge,
    ShapleyRanking,
    ShapleyValues,
    StratifiedSampler,
    StratifiedValues,
    shapley,
)
from layershap.exceptions import ValueQualityWarning
from layershap.fitting.resampling import calibration_errors
from layershap.fitting.values import ValueSettings, fit_values, surrogate_values
from layershap.fitting.veto import lost_without, veto_players
from layershap.samplers.distinct import draw_distinct
from layershap.shapley import SampledMasks, Semivalue, all_masks

from .helpers.texts import IDS


@pytest.fixture(scope="module")
def rough():
    """A game of 8 players without structure: masks [256, 8], scores [256]."""
    return all_masks(8), np.random.default_rng(0).normal(size=256)


def test_semivalues_of_a_table(rough):
    masks, scores = rough
    found = Semivalue.shapley(8).of_table(masks, scores)
    assert found == pytest.approx(shapley.exact_from_table(scores), abs=1e-12)
    # The paper's average written out: all masks of two strata, each player put in and taken out.
    value = {mask.tobytes(): score for mask, score in zip(masks, scores, strict=True)}
    expected = np.zeros(8)
    for size in (6, 3):
        of_size = masks[masks.sum(axis=1) == size]
        for player in range(8):
            inside, outside = of_size.copy(), of_size.copy()
            inside[:, player], outside[:, player] = True, False
            marginals = [value[a.tobytes()] - value[b.tobytes()] for a, b in zip(inside, outside, strict=True)]
            expected[player] += np.mean(marginals) / 2
    order = np.random.default_rng(1).permutation(256)
    assert Semivalue.of_strata(8, [6, 3]).of_table(masks[order], scores[order]) == pytest.approx(expected, abs=1e-12)


def test_semivalues_refuse_impossible_strata():
    for strata in ([], [9], [-1]):
        with pytest.raises(ValueError, match=r"numbers of kept layers in \[0, 8\]"):
            Semivalue.of_strata(8, strata)


@pytest.mark.parametrize("semivalue", [Semivalue.shapley(8), Semivalue.of_strata(8, [7, 5, 4])], ids=["all", "strata"])
def test_sampled_values_are_unbiased_and_their_errors_are_right(rough, semivalue):
    masks, scores = rough
    value = {mask.tobytes(): score for mask, score in zip(masks, scores, strict=True)}
    exact = semivalue.of_table(masks, scores)
    shares = {int(size): float(semivalue.spread[size]) for size in semivalue.sizes}
    estimates, errors = [], []
    for seed in range(400):
        drawn = draw_distinct(8, shares, 90, np.random.default_rng(seed), masks[:0])
        sampled = SampledMasks(drawn, semivalue)
        found = np.array([value[mask.tobytes()] for mask in drawn])
        estimates.append(sampled.values(found))
        errors.append(sampled.standard_errors(found))
        assert not sampled.missing
    gap = np.mean(estimates, axis=0) - exact
    spread = np.std(estimates, axis=0)
    assert (np.abs(gap) < 4 * spread / np.sqrt(400)).all()
    assert np.sqrt(np.mean(np.square(errors), axis=0)) == pytest.approx(spread, rel=0.12)
    within = np.abs(np.array(estimates) - exact) < np.array(errors)
    assert 0.6 < within.mean() < 0.76


def test_all_masks_of_a_size_leave_no_error(rough):
    masks, scores = rough
    semivalue = Semivalue.of_strata(8, [6])
    rows = np.isin(masks.sum(axis=1), semivalue.sizes)
    doubled = np.concatenate([np.flatnonzero(rows), np.flatnonzero(rows)[:3]])
    sampled = SampledMasks(masks[doubled], semivalue)
    assert sampled.values(scores[doubled]) == pytest.approx(semivalue.of_table(masks, scores), abs=1e-12)
    assert (sampled.standard_errors(scores[doubled]) == 0).all()
    lacking = SampledMasks(masks[masks.sum(axis=1) == 6], semivalue)
    assert lacking.missing == [5, 7]


def test_a_surrogate_that_knows_nothing_leaves_the_values_unbiased(rough):
    masks, scores = rough
    value = {mask.tobytes(): score for mask, score in zip(masks, scores, strict=True)}
    settings = ValueSettings((6, 4), 100, unbiased=True)
    semivalue = settings.semivalue(8)
    exact = semivalue.of_table(masks, scores)
    estimates = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        drawn = StratifiedSampler([6, 4], neighbours=True).sample(8, 80, rng)
        found = np.array([value[mask.tobytes()] for mask in drawn])
        for surrogate in (DummyRegressor(), PairwiseRidge()):
            estimates.append(fit_values(surrogate, drawn, found, settings, rng).values)
    errors = np.std(estimates, axis=0) / np.sqrt(len(estimates))
    assert (np.abs(np.mean(estimates, axis=0) - exact) < 4 * errors).all()


def test_the_process_knows_its_values_and_interactions_in_closed_form(rough):
    masks, scores = rough
    rows = np.random.default_rng(2).permutation(256)[:60]
    process = HammingProcess().fit(masks[rows], scores[rows])
    predicted = process.predict(masks)
    assert process.shapley_values() == pytest.approx(shapley.exact_from_table(predicted), abs=1e-10)
    strata = [7, 4]
    assert process.shapley_values(strata) == pytest.approx(
        Semivalue.of_strata(8, strata).of_table(masks, predicted), abs=1e-10
    )
    exact = shapley.interactions_from_table(predicted, "k-SII").pairs
    assert process.interaction_values() == pytest.approx(exact, abs=1e-10)
    # Over a stratum: the mean second difference over its masks.
    value = {mask.tobytes(): score for mask, score in zip(masks, predicted, strict=True)}
    of_size = masks[masks.sum(axis=1) == 4]
    differences = np.zeros(len(of_size))
    for first, second, sign in ((True, True, 1), (True, False, -1), (False, True, -1), (False, False, 1)):
        changed = of_size.copy()
        changed[:, 1], changed[:, 6] = first, second
        differences += sign * np.array([value[mask.tobytes()] for mask in changed])
    assert process.interaction_values([4])[1, 6] == pytest.approx(differences.mean(), abs=1e-10)
    assert process.refitted_values(masks[rows], scores[rows][None])[0] == pytest.approx(process.shapley_values())


def test_the_process_is_sure_where_it_has_looked(rough):
    masks, _ = rough
    smooth = masks @ np.arange(1.0, 9.0) / 36
    process = HammingProcess().fit(masks[::2], smooth[::2])
    assert np.abs(process.predict(masks[1::2]) - smooth[1::2]).max() < 0.1 * np.ptp(smooth)
    assert process.predict_spread(masks[::2]).mean() < process.predict_spread(masks[1::2]).mean()
    assert HammingProcess().fit(masks[:5], np.ones(5)).predict(masks) == pytest.approx(np.ones(256))


def test_veto_players_are_those_without_which_less_than_a_third_is_left():
    alone = np.array([0.1, 0.9, 0.3, 0.34, np.nan, 0.8])
    expected = [True, False, True, False, False, False]
    assert lost_without(alone, 1.0, 0.0).tolist() == expected
    # Neither shift nor scale of the utility matters.
    assert lost_without(10 * alone - 7, 3.0, -7.0).tolist() == expected
    # A lost model's score need not be finite; what the empty coalition scores need not either.
    assert lost_without(np.where(alone == 0.1, -np.inf, alone), 1.0, 0.0).tolist() == expected
    assert lost_without(alone, 1.0, np.nan).tolist() == [True, False, True, True, False, False]
    # A model that is worth no more than nothing can't be lost.
    assert not lost_without(alone, 0.5, 0.6).any()
    # Fewer than two others left, protected ones not counted: no veto.
    removable = np.ones(3, dtype=bool)
    assert veto_players(np.array([True, False, False]), removable).tolist() == [True, False, False]
    assert not veto_players(np.array([True, True, False]), removable).any()
    assert not veto_players(np.array([True, False, False]), np.array([True, True, False])).any()


def test_the_error_by_the_text_is_exact_where_all_masks_are_there(rough):
    masks, scores = rough
    rng = np.random.default_rng(3)
    resampled = scores + 0.1 * rng.normal(size=(200, 256))
    settings = ValueSettings((6, 4), 100, unbiased=True)
    semivalue = settings.semivalue(8)
    found = fit_values(HammingProcess(), masks, scores, settings, rng, resampled_BM=resampled)
    exact = np.array([semivalue.of_table(masks, again) for again in resampled])
    assert found.calibration_errors == pytest.approx(exact.std(axis=0, ddof=1), rel=1e-9)
    assert found.resampled_values == pytest.approx(exact, abs=1e-9)


def test_a_surrogate_that_learnt_nothing_does_not_make_values_surer_of_their_text(rough):
    """Scores without structure, whose text moves each layer's value alike: the surrogate's refit hardly moves."""
    masks, scores = rough
    rng = np.random.default_rng(4)
    drawn = rng.permutation(np.flatnonzero(np.isin(masks.sum(axis=1), (3, 4, 5, 6))))[:60]
    worth = 0.2 * rng.normal(size=(200, 8))
    resampled = scores[drawn] + worth @ masks[drawn].T
    found = fit_values(
        HammingProcess(), masks[drawn], scores[drawn], ValueSettings((6, 4), 100, True), rng, resampled_BM=resampled
    )
    assert found.held_out.is_poor
    assert (found.calibration_errors > 0.8 * worth.std(axis=0)).all()
    assert (found.calibration_errors < 2 * worth.std(axis=0)).all()


def test_values_are_exact_where_all_coalitions_are_affordable(stories, stories_calibration):
    masks = all_masks(5)
    scores = LayerGame(stories[0], stories_calibration)(masks)
    pruner = LayerPruner(
        n_masks=64, values=StratifiedValues(keep_veto=False), selector=ShapleyRanking(), random_state=0
    )
    pruner.fit(stories[0], stories_calibration)
    expected = Semivalue.of_strata(5, pruner.diagnostics_["strata"]).of_table(masks, scores)
    assert pruner.contributions_ == pytest.approx(expected, abs=1e-9)
    assert pruner.diagnostics_["mask_errors"] == pytest.approx(np.zeros(5))
    everywhere = pruner.set_params(values=ShapleyValues(keep_veto=False)).fit(stories[0], stories_calibration)
    assert everywhere.contributions_ == pytest.approx(shapley.exact_from_table(scores), abs=1e-9)
    values, errors = everywhere.contributions_at(2, width=0, return_std=True)
    of_three = Semivalue.of_strata(5, [3])
    assert values == pytest.approx(of_three.of_table(masks, scores), abs=1e-9)
    with LayerGame(stories[0], stories_calibration) as game:
        by_text = calibration_errors(
            game, masks, lambda found: of_three.of_table(masks, found), n_resamples=2000, rng=np.random.default_rng(1)
        )
    assert errors == pytest.approx(by_text, rel=0.2)  # of 200 resamples
    assert everywhere.result_.contributions.fit.at([3], seed=0).mask_errors == pytest.approx(np.zeros(5))


def test_veto_players_are_kept_and_reported(stories, stories_calibration):
    masks = all_masks(5)
    scores = LayerGame(stories[0], stories_calibration)(masks)
    pruner = LayerPruner(random_state=0).fit(stories[0], stories_calibration)
    veto = pruner.veto_players_
    alone = np.array([scores[(masks == ~np.eye(5, dtype=bool)[i]).all(axis=1)][0] for i in range(5)])
    assert list(veto) == list(np.flatnonzero(alone < scores[0] + (scores[-1] - scores[0]) / 3))
    assert 0 < len(veto) < 4
    free = np.setdiff1d(np.arange(5), veto)
    among = masks[:, veto].all(axis=1)
    expected = Semivalue.of_strata(len(free), pruner.diagnostics_["strata"]).of_table(
        masks[among][:, free], scores[among]
    )
    assert pruner.contributions_[free] == pytest.approx(expected, abs=1e-9)
    assert (pruner.contributions_[veto] > pruner.contributions_[free].max()).all()
    assert np.isnan(pruner.interactions_[veto]).all()
    assert pruner.surrogate_.n_features_in_ == 5
    # What a veto player is worth depends on the text, too.
    game, drawn = LayerGame(stories[0], stories_calibration), masks[among]
    without = drawn[:, None] & (np.arange(5) != veto[:, None, None]).transpose(1, 0, 2)
    size, strata = drawn[:, free].sum(axis=1), pruner.diagnostics_["strata"]

    def worth(scores):
        with_it, lost = scores[: len(drawn)], scores[len(drawn) :].reshape(len(drawn), len(veto))
        return [
            np.mean([with_it[size == k].mean() - lost[size == k, v].mean() for k in strata]) for v in range(len(veto))
        ]

    both = np.concatenate([drawn, without.reshape(-1, 5)])
    errors = calibration_errors(game, both, worth, rng=np.random.default_rng(1))
    assert pruner.diagnostics_["calibration_errors"][veto] == pytest.approx(errors, rel=0.35)
    free_of_it = LayerPruner(random_state=0, values=StratifiedValues(keep_veto=False)).fit(
        stories[0], stories_calibration
    )
    assert len(free_of_it.veto_players_) == 0


class Loss:
    """The mean NLL itself: lower is better, so every removal seems to help."""

    statistics = ("nll",)

    def score(self, statistics):
        return statistics.sums["nll"].sum(axis=1) / statistics.counts.sum()


def test_removals_that_help_have_negative_values_and_are_questioned(stories, stories_calibration):
    pruner = LayerPruner(utility=Loss(), n_masks=64, selector=ShapleyRanking(), random_state=0)
    with pytest.warns(ValueQualityWarning, match=r"score higher than the whole model.*a loss"):
        pruner.fit(stories[0], stories_calibration)
    assert len(pruner.veto_players_) == 0
    scores = LayerGame(stories[0], stories_calibration, utility=Loss())(all_masks(5))
    expected = Semivalue.of_strata(5, pruner.diagnostics_["strata"]).of_table(all_masks(5), scores)
    assert pruner.contributions_ == pytest.approx(expected, abs=1e-9)
    assert (pruner.contributions_ < 0).all()


def test_two_removable_layers_and_one_to_remove(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = LayerPruner(protect=[0, 1, 2], random_state=0).fit(tiny, IDS)
        assert np.isfinite(pruner.contributions_[3:]).all()
        one = LayerPruner(max_remove=1, random_state=0).fit(tiny, IDS)
    assert len(one.removed_layers(1)) == 1


def test_sizes_that_were_not_sampled_are_named(stories, stories_calibration):
    pruner = LayerPruner(
        sampler=StratifiedSampler([4, 2]), values=StratifiedValues(keep_veto=False), n_masks=24, random_state=0
    )
    with pytest.warns(ValueQualityWarning, match=r"lack \[2, 4\] of 5 layers, of which no mask was drawn"):
        pruner.fit(stories[0], stories_calibration)
    assert pruner.diagnostics_["missing_sizes"] == [1, 3]
    with pytest.warns(ValueQualityWarning, match=r"no mask was drawn that keeps \[1, 3\] of the layers that play"):
        errors = pruner.contributions_at(3, width=0, return_std=True)[1]
    assert np.isnan(errors).all()


def test_the_sampling_of_values_without_a_closed_form_is_in_their_errors(rough):
    """A surrogate that fits all coalitions exactly leaves nothing but the sampling."""
    masks, scores = rough
    tree = DecisionTreeRegressor(random_state=0)
    n_players = masks.shape[1]
    for strata in ((6, 4), None):
        few, many = (
            fit_values(tree, masks, scores, ValueSettings(strata, n, unbiased=False), np.random.default_rng(0))
            for n in (400, 40_000)
        )
        semivalue = Semivalue.shapley(n_players) if strata is None else Semivalue.of_strata(n_players, strata)
        truth = semivalue.of_table(masks, scores)
        assert np.abs(many.values - truth).max() < np.abs(few.values - truth).max()
        _, few_errors = surrogate_values(few.surrogate, n_players, few.settings, np.random.default_rng(0))
        _, many_errors = surrogate_values(many.surrogate, n_players, many.settings, np.random.default_rng(0))
        assert few_errors.mean() > 5 * many_errors.mean()
        assert (few.mask_errors >= few_errors).all()

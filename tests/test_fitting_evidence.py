"""How many masks, what is resampled from the calibration sequences, and bad input before work."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

from layershap import (
    BootstrapEnsemble,
    Calibration,
    Exhaustive,
    Greedy,
    LayerGame,
    LayerPruner,
    PairwiseRidge,
    ShapleyRanking,
    StratifiedSampler,
    StratifiedValues,
    SurrogateQualityWarning,
    SurrogateSearch,
    TiedSelectionWarning,
    shapley,
)
from layershap.fitting.masks import share_masks
from layershap.fitting.resampling import calibration_errors
from layershap.masks import subsets
from layershap.protocols import SearchingSelector, SelectionEvidence
from layershap.selection.best import select_best
from layershap.selection.greedy import greedy_masks
from layershap.utilities import NegativeLogLikelihood

from .helpers.texts import IDS


@pytest.fixture(scope="module")
def fitted(stories, stories_calibration):
    return LayerPruner(random_state=0, values=StratifiedValues(keep_veto=False)).fit(stories[0], stories_calibration)


def test_the_values_have_9_masks_for_each_layer_half_of_what_is_spare_or_what_the_search_can_not_use():
    selector, required = SurrogateSearch(), greedy_masks(12, 8)
    useful = selector.n_useful(12, 8)
    assert share_masks(None, selector, 12, 8) == (useful + 108, 108)
    assert share_masks(useful + 500, selector, 12, 8) == (useful + 500, 500)
    assert share_masks(required + 100, selector, 12, 8) == (required + 100, 50)
    assert share_masks(required, selector, 12, 8) == (required, 0)
    assert share_masks(None, Greedy(), 12, 8) == (required + 108, 108)
    assert share_masks(None, ShapleyRanking(), 12, 8) == (256, 244)
    assert share_masks(None, ShapleyRanking(), 12, 8, keep_veto=False) == (256, 256)
    assert share_masks(None, ShapleyRanking(), 30, 8) == (300, 270)


def test_a_search_that_does_not_say_how_much_it_can_use_is_refused(tiny):
    class Silent(AllPairs):
        n_useful = None

    with pytest.raises(TypeError, match=r"a selector must have .*n_useful.* has no n_useful"):
        LayerPruner(selector=Silent(), random_state=0).fit(tiny, IDS)


def test_too_few_masks_say_what_each_part_needs(tiny):
    with pytest.raises(ValueError, match=r"SurrogateSearch may need 14 masks for max_remove=4.*The minimum is 14"):
        LayerPruner(n_masks=13).fit(tiny, IDS)
    with pytest.raises(ValueError, match=r"Exhaustive may need 30 masks"):
        LayerPruner(n_masks=20, selector=Exhaustive()).fit(tiny, IDS)


def test_max_remove(tiny):
    pruner = LayerPruner(max_remove=2, random_state=0).fit(tiny, IDS)
    assert pruner.max_remove_ == 2
    with pytest.raises(ValueError, match=r"sets of 1 to 2 layers.*max_remove=3"):
        pruner.removed_layers(3)
    with pytest.raises(ValueError, match="n_remove=3 exceeds max_remove=2"):
        LayerPruner(3, max_remove=2).fit(tiny, IDS)
    for wrong in (0, 5):
        with pytest.raises(ValueError, match=r"\[1, 4\]"):
            LayerPruner(max_remove=wrong).fit(tiny, IDS)
    with pytest.raises(TypeError, match="max_remove must be an int"):
        LayerPruner(max_remove=2.5).fit(tiny, IDS)
    assert LayerPruner(4, selector=ShapleyRanking(), max_remove=2, random_state=0).fit(tiny, IDS).removed_layers()


@pytest.mark.parametrize("selector", [Greedy(), Exhaustive(), SurrogateSearch()])
def test_searching_selectors_in_the_estimator(stories, stories_calibration, selector):
    assert isinstance(selector, SearchingSelector)
    pruner = LayerPruner(selector=selector, random_state=0).fit(stories[0], stories_calibration)
    scores = LayerGame(stories[0], stories_calibration)(shapley.all_masks(5))
    removed = 5 - shapley.all_masks(5).sum(axis=1)
    for n_remove in range(1, 5):
        mask = pruner.get_support(n_remove)
        found, best = scores[mask @ 2 ** np.arange(5)], scores[removed == n_remove].max()
        assert found <= best + 1e-6
        if not isinstance(selector, Greedy):
            assert found == pytest.approx(best, abs=1e-6)
    if isinstance(selector, Exhaustive):
        assert len(np.unique(pruner.masks_[~pruner.masks_.all(axis=1)], axis=0)) == 30 + 1  # the empty one


def test_removal_probabilities_and_calibration_errors(fitted, stories, stories_calibration):
    assert fitted.removal_probabilities_.shape == (4, 5)
    assert fitted.removal_probabilities_.sum(axis=1) == pytest.approx([1, 2, 3, 4])
    for n_remove in (1, 2, 3, 4):
        # What was chosen on all sequences is chosen on most resamples of them.
        assert fitted.removal_probabilities_[n_remove - 1][fitted.removed_layers(n_remove)].mean() > 0.5
    # Twice the text of the same kind: the error of the values falls by the square root of two.
    doubled = Calibration(stories_calibration.ids_ST.repeat(2, 1), stories_calibration.labels_ST.repeat(2, 1))
    again = LayerPruner(random_state=0, values=StratifiedValues(keep_veto=False)).fit(stories[0], doubled)
    ratio = again.diagnostics_["calibration_errors"] / fitted.diagnostics_["calibration_errors"]
    assert np.median(ratio) == pytest.approx(2**-0.5, abs=0.12)
    combined = fitted.diagnostics_["mask_errors"] ** 2 + fitted.diagnostics_["calibration_errors"] ** 2
    assert fitted.contributions_std_ == pytest.approx(np.sqrt(combined))


def test_calibration_errors_of_exact_values_and_interactions(stories, stories_calibration):
    """Against a linear utility, whose mean over sequences has a standard error in closed form."""
    game = LayerGame(stories[0], stories_calibration, utility=NegativeLogLikelihood())
    masks = shapley.all_masks(5)
    found = calibration_errors(game, masks, shapley.exact_from_table, n_resamples=2000, rng=np.random.default_rng(0))
    statistics = game.statistics(masks)
    assert np.ptp(statistics.counts) == 0
    per_sequence = -statistics.sums["nll"] / statistics.counts
    values = np.array([shapley.exact_from_table(column) for column in per_sequence.T])
    assert found == pytest.approx(values.std(axis=0) / np.sqrt(len(values)), rel=0.08)
    pairs = calibration_errors(
        game, masks, lambda scores: shapley.interactions_from_table(scores).pairs, rng=np.random.default_rng(0)
    )
    assert pairs.shape == (5, 5)
    assert (pairs[~np.eye(5, dtype=bool)] > 0).all()
    with pytest.raises(ValueError, match="of 1 sequences"):
        calibration_errors(
            LayerGame(stories[0], IDS[:1]), masks, shapley.exact_from_table, rng=np.random.default_rng(0)
        )


def test_without_anything_to_resample(tiny):
    one = LayerPruner(random_state=0).fit(tiny, IDS[:1])
    assert np.isnan(one.removal_probabilities_).all()
    assert np.isfinite(one.contributions_std_).all()
    called = LayerPruner(utility=lambda model: float(model(IDS[:1]).logits.std()), random_state=0).fit(tiny, IDS)
    assert np.isnan(called.removal_probabilities_).all()
    forest = LayerPruner(
        surrogate=DecisionTreeRegressor(),
        selector=ShapleyRanking(),
        n_masks=20,
        values=StratifiedValues(n_marginals=100),
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SurrogateQualityWarning)
        assert np.isnan(forest.fit(tiny, IDS).removal_probabilities_).all()
    ridge = LayerPruner(selector=ShapleyRanking(), n_masks=20, random_state=0).fit(tiny, IDS)
    assert ridge.removal_probabilities_.sum(axis=1) == pytest.approx([1, 2, 3, 4])


def test_auto_surrogate_and_an_ensemble(tiny):
    with pytest.warns(FutureWarning, match=r"surrogate=BestSurrogate\(\) now"):
        pruner = LayerPruner(surrogate="auto", random_state=0)
    pruner.fit(tiny, IDS)
    choice = pruner.diagnostics_["surrogate_choice"]
    assert type(pruner.surrogate_.chosen_).__name__ == max(choice, key=choice.get)
    assert set(choice) == {"LinearRidge", "PairwiseRidge", "HammingProcess"}
    ensemble = LayerPruner(
        surrogate=BootstrapEnsemble(n_members=3), values=StratifiedValues(n_marginals=200), random_state=0
    ).fit(tiny, IDS)
    assert np.isfinite(ensemble.contributions_).all()


def test_ties_are_named(tiny):
    evidence = SelectionEvidence(
        contributions=np.array([0.3, 0.1, 0.1, 0.2]),
        removable=np.ones(4, dtype=bool),
        surrogate=PairwiseRidge(),
        masks=~np.eye(4, dtype=bool),
        scores=np.array([0.5, 0.9, 0.9, 0.7]),
    )
    with pytest.warns(TiedSelectionWarning, match=r"2 sets of 1 layers score 0\.9.*\[2\]"):
        assert list(select_best(evidence, 1)) == [1]
    with pytest.warns(TiedSelectionWarning, match=r"same value, \[1, 2\]"):
        assert list(ShapleyRanking().select(evidence, 1)) == [1]


def test_sets_that_the_model_can_not_lose_are_not_chosen():
    evidence = SelectionEvidence(
        contributions=np.array([0.3, 0.1, 0.15, 0.2]),
        removable=np.ones(4, dtype=bool),
        surrogate=PairwiseRidge(),
        masks=np.array([[1, 0, 0, 1], [1, 0, 1, 0], [1, 0, 1, 1]], dtype=bool),
        scores=np.array([0.9, 0.8, 0.95]),
        keep_one_of=((1, 2),),
    )
    assert list(select_best(evidence, 2)) == [1, 3]
    assert list(ShapleyRanking().select(evidence, 2)) == [1, 3]
    assert list(Greedy().select(evidence, 2)) == [1, 3]


class AllPairs:
    """A selector that can do one number only."""

    def n_required(self, n_players, max_remove):
        return n_players * (n_players - 1) // 2

    n_useful = n_required

    def search(self, game, surrogate, max_remove, rng):
        game(subsets(np.ones(game.n_players, dtype=bool), 2))

    def select(self, evidence, n_remove):
        if n_remove != 2:
            raise ValueError(f"AllPairs removes 2 layers, got n_remove={n_remove}")
        pairs = np.flatnonzero((~evidence.masks).sum(axis=1) == 2)
        return np.flatnonzero(~evidence.masks[pairs[np.argmax(evidence.scores[pairs])]])


def test_a_selector_asked_for_a_number_that_it_can_not_do(tiny):
    pruner = LayerPruner(selector=AllPairs(), random_state=0).fit(tiny, IDS)
    assert len(pruner.removed_layers(2)) == 2
    assert np.isnan(pruner.removal_probabilities_).all(axis=1).tolist() == [True, False, True, True]
    with pytest.raises(ValueError, match="AllPairs removes 2 layers, got n_remove=3"):
        pruner.removed_layers(3)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"surrogate": object()}, "surrogate must have fit and predict"),
        ({"surrogate": StratifiedSampler()}, "has no fit and no predict"),
        ({"surrogate": PairwiseRidge}, r"write PairwiseRidge\(\)"),
        ({"surrogate": "best"}, "surrogate must have"),
        ({"selector": PairwiseRidge()}, "selector must have select"),
        ({"sampler": PairwiseRidge()}, "sampler must have sample"),
    ],
)
def test_parts_are_checked_before_anything_is_paid_for(tiny, part, message):
    with pytest.raises(TypeError, match=message):
        LayerPruner(**part).fit(tiny, None)


def test_constant_scores_are_named(tiny):
    with pytest.raises(ValueError, match=r"all \d+ masked models score 0\.25"):
        LayerPruner(utility=lambda model: 0.25, random_state=0).fit(tiny, IDS)

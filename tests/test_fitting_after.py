"""A fitted pruner that is changed, cloned or kept: what it then says is about what it then does."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone

from layershap import (
    LayerGame,
    LayerPruner,
    PruningReport,
    ShapleyRanking,
    ShapleyValues,
    compare,
    find_layers,
    find_sublayers,
)
from layershap.baselines import LastLayers, ShortGPT
from layershap.exceptions import LedgerMismatchError, UnsupportedModelError
from layershap.utilities import KLDivergence


@pytest.fixture
def fitted(stories, stories_calibration):
    return LayerPruner(max_remove=3, n_masks=60, confidence=1, random_state=0).fit(stories[0], stories_calibration)


def test_another_selector_gets_scores_of_its_own_sets(fitted, stories, stories_calibration):
    class FirstLayers:
        def select(self, evidence, n_remove):
            return np.arange(n_remove)

    before = fitted.report_.removals
    fitted.set_params(selector=FirstLayers())
    with LayerGame(stories[0], stories_calibration) as game:
        truth = game([fitted.get_support(n) for n in (1, 2, 3)])
    known = ~np.isnan(fitted.removal_scores_)
    assert known[0]  # all layers were removed alone, on all of the text
    np.testing.assert_allclose(fitted.removal_scores_[known], truth[known], rtol=1e-5)
    for old, new in zip(before, fitted.report_.removals, strict=True):
        assert new.layers == tuple(range(new.n_remove)) != old.layers
        assert (new.probabilities, new.comparison) == (None, None)
        assert old.probabilities is not None
        assert new.score == (fitted.removal_scores_[new.n_remove - 1] if known[new.n_remove - 1] else None)


def test_a_selector_that_chooses_the_same_keeps_all_that_is_known(fitted):
    before = fitted.report_
    fitted.set_params(selector=ShapleyRanking())
    for old, new in zip(before.removals, fitted.report_.removals, strict=True):
        assert (new == old) == (new.layers == old.layers)


def test_a_report_equals_the_one_read_back_with_nan(fitted, tmp_path):
    interactions = np.array(fitted.report_.surrogate.interactions)
    assert np.isnan(interactions).any()  # of veto players
    fitted.report_.save(tmp_path / "report.json")
    assert PruningReport.load(tmp_path / "report.json") == fitted.report_
    assert fitted.report_ != fitted.set_params(n_remove=2).report_
    assert fitted.report_ != "a report"


@pytest.mark.parametrize("find", [find_layers, lambda model: list(model.model.layers)])
def test_clones_name_the_layers_of_the_same_model(stories, stories_calibration, find):
    model = stories[0]
    pruner = LayerPruner(layers=find(model), max_remove=1, n_masks=30, random_state=0, protect=[0])
    copied = clone(pruner)
    assert copied.layers is pruner.layers
    assert copied.protect == [0]
    assert copied.protect is not pruner.protect
    assert copied.fit(model, stories_calibration).transform(model, 1).config.num_hidden_layers == 4
    methods = {"layers given": ShortGPT(layers=find(model)), "last": LastLayers()}
    assert compare(model, stories_calibration, stories_calibration, methods, n_removes=[1])["layers given", 1].layers


def test_layers_that_are_none_are_refused(stories, stories_calibration):
    model = stories[0]
    with pytest.raises(UnsupportedModelError, match=r"layers\[1\] must be .* each named once"):
        find_layers(model, [model.model.layers[0]] * 5)
    for layers in (model, 5):
        with pytest.raises(TypeError, match="layers must be a dotted path or a sequence of modules, got"):
            LayerPruner(layers=layers).fit(model, stories_calibration)


def test_a_class_is_no_utility(stories, stories_calibration):
    with pytest.raises(TypeError, match=r"got the class KLDivergence; write KLDivergence\(\)"):
        LayerPruner(utility=KLDivergence).fit(stories[0], stories_calibration)


def test_players_found_before_are_named_in_the_report_as_what_they_are(stories, stories_calibration):
    pruner = LayerPruner(layers=find_sublayers(stories[0]), max_remove=1, n_masks=40, random_state=0)
    report = pruner.fit(stories[0], stories_calibration).report_
    assert report.fit.granularity == "sublayer"
    assert len(report.layers) == 10
    assert report.fit.settings["layers"].startswith("SublayerStack(stack=LayerStack(path='model.layers'")
    assert len(repr(pruner)) < 400  # not the modules


def test_another_text_in_a_ledger_is_not_called_another_model(stories, stories_calibration, tmp_path):
    masks = np.ones((1, 5), dtype=bool)
    with LayerGame(stories[0], stories_calibration, ledger=tmp_path / "ledger.jsonl") as game:
        game(masks)
    other = stories_calibration.ids_ST[:3, 1:]
    with pytest.raises(LedgerMismatchError, match="calibration: ") as caught:
        LayerGame(stories[0], other, ledger=tmp_path / "ledger.jsonl")
    assert "logits" not in str(caught.value)


def test_shapley_values_are_those_of_the_whole_game_without_kept_veto_players(stories, stories_calibration):
    asked = {"max_remove": 2, "confidence": 1, "random_state": 0}
    exact = LayerPruner(values=ShapleyValues(keep_veto=False), **asked).fit(stories[0], stories_calibration)
    kept = LayerPruner(values=ShapleyValues(), **asked).fit(stories[0], stories_calibration)
    with LayerGame(stories[0], stories_calibration) as game:
        everyone, nobody = game(np.array([[True] * 5, [False] * 5]))
    assert exact.contributions_.sum() == pytest.approx(everyone - nobody, abs=1e-6)
    assert len(kept.veto_players_)
    assert kept.contributions_.sum() != pytest.approx(everyone - nobody, abs=1e-2)


@pytest.mark.parametrize("method", [LastLayers, None, 3])
def test_what_is_no_method_is_not_compared(stories, stories_calibration, method):
    with pytest.raises(TypeError, match=r"methods\['it'\] must be an object with fit"):
        compare(stories[0], stories_calibration, stories_calibration, {"it": method}, n_removes=[1])

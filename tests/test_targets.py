"""Targets on real fits: what is chosen meets them on the physically pruned model, and the next smaller one does not."""

from __future__ import annotations

import logging
import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from transformers import AutoModelForCausalLM

from layershap import (
    Calibration,
    LayerPruner,
    PruningReport,
    ShapleyRanking,
    UnreachableTargetError,
    UnsupportedModelError,
    remove_layers,
    remove_sublayers,
)
from layershap.baselines import ShortGPT
from layershap.datasets import load_calibration_text
from layershap.model.split import find_players
from layershap.report.curve import perplexity_increase
from layershap.targets import MaxBytes, MaxParameters, MaxPerplexityIncrease
from layershap.targets.sizes import size_without
from layershap.utilities import NegativeLogLikelihood

# So little text and so few masks are told of.
pytestmark = pytest.mark.filterwarnings(
    "ignore::layershap.CalibrationWarning",
    "ignore::layershap.ValueQualityWarning",
    "ignore::layershap.SurrogateQualityWarning",
)


@pytest.fixture(scope="module")
def fitted(gpt2):
    """With 8 of 32 sequences held back."""
    text = Calibration.from_texts(load_calibration_text(), gpt2[1], seq_len=24, n_sequences=32)
    return LayerPruner(n_masks=100, max_remove=4, random_state=0).fit(gpt2[0], text)


@pytest.fixture(scope="module")
def few(stories, stories_calibration):
    """Six sequences: nothing is held back."""
    return LayerPruner(n_masks=20, max_remove=3, random_state=0).fit(stories[0], stories_calibration)


def n_bytes(model):
    return sum(p.numel() * p.element_size() for p in model.parameters())


def mean_nll(model, ids_ST):
    with torch.inference_mode():
        return model(ids_ST, labels=ids_ST).loss.item()


@pytest.mark.filterwarnings("ignore::layershap.CheckpointWarning")
@pytest.mark.parametrize(("granularity", "remove"), [("layer", remove_layers), ("sublayer", remove_sublayers)])
def test_sizes_are_those_of_physically_pruned_models(gpt2, stories, granularity, remove):
    for model in (gpt2[0], stories[0]):
        players = find_players(model, None, granularity)
        assert size_without(model, players, []) == (model.num_parameters(), n_bytes(model))
        removed = [1, 2, 3]  # of the sublayers, one layer's both and another's one
        small = remove(model, removed, check=False)
        assert size_without(model, players, removed) == (sum(p.numel() for p in small.parameters()), n_bytes(small))


def test_the_smallest_removal_that_meets_a_size(fitted, gpt2):
    model, _ = gpt2
    for n in (1, 3):
        small = fitted.transform(model, n)
        for target in (MaxParameters(small.num_parameters()), MaxBytes(n_bytes(small))):
            assert fitted.choose_n_remove(model, target).n_remove == n
            assert fitted.transform(model, target=target).num_parameters() == small.num_parameters()
        less = fitted.choose_n_remove(model, MaxParameters(small.num_parameters() - 1))
        assert less.n_remove == n + 1
        assert less.point.layers == tuple(fitted.removed_layers(n + 1))


def test_bytes_are_those_of_the_model_that_is_given(fitted, gpt2):
    """The fit is of float32; half of its precision is half of its bytes."""
    half = AutoModelForCausalLM.from_config(gpt2[0].config, dtype=torch.bfloat16)
    limit = MaxBytes(n_bytes(half) - 1)
    assert fitted.choose_n_remove(half, limit).n_remove == 1
    with pytest.raises(UnreachableTargetError):
        fitted.choose_n_remove(gpt2[0], limit)


def test_sizes_need_no_weights(fitted, gpt2):
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(gpt2[0].config)
    found = fitted.choose_n_remove(skeleton, "parameters<=4M")
    assert found.n_remove == fitted.choose_n_remove(gpt2[0], "parameters<=4M").n_remove
    with pytest.raises(UnsupportedModelError, match=r"on the meta device: .* its speed can't be measured"):
        fitted.choose_n_remove(skeleton, "decode_latency<=1ms")


def test_perplexity_on_the_text_searched_is_that_of_the_physically_pruned_model(few, stories, stories_calibration):
    model, ids_ST = stories[0], stories_calibration.ids_ST
    dense = mean_nll(model, ids_ST)
    points = few.removal_curve_.points
    assert [point.scored_on for point in points] == ["", "searched", "searched", "searched"]
    for point in points[1:]:
        pruned = mean_nll(few.transform(model, point.n_remove), ids_ST)
        assert point.perplexity_increase == pytest.approx(100 * math.expm1(pruned - dense), rel=1e-4)
        assert point.perplexity_increase_error is None


def test_the_largest_removal_that_keeps_a_perplexity(fitted, gpt2):
    points = fitted.removal_curve_.points[1:]
    increases = [point.perplexity_increase for point in points]
    assert [point.scored_on for point in points] == ["held back"] * 4
    for limit in (max(increases), np.median(increases), min(increases)):
        found = fitted.choose_n_remove(gpt2[0], MaxPerplexityIncrease(limit))
        assert found.n_remove == max(n for n, increase in enumerate(increases, 1) if increase <= limit)
        assert found.reached <= limit
    third = points[2]
    tight = MaxPerplexityIncrease(third.perplexity_increase + 1.5 * third.perplexity_increase_error, 2.0)
    assert fitted.choose_n_remove(gpt2[0], tight).n_remove < 3
    assert fitted.choose_n_remove(gpt2[0], MaxPerplexityIncrease(tight.percent, 1.0)).n_remove >= 3


def test_the_error_of_an_increase_is_that_of_the_score_to_first_order(fitted):
    for point, compared in zip(fitted.removal_curve_.points[1:], fitted.comparisons_, strict=True):
        up, down = (perplexity_increase(compared.score + sign * 1e-6, None)[0] for sign in (1, -1))
        slope = abs(up - down) / 2e-6
        assert point.perplexity_increase_error == pytest.approx(slope * compared.score_error, rel=1e-5)
    assert perplexity_increase(-0.1, 0.1) == (math.inf, None)


def test_what_was_not_scored_is_predicted_with_the_error_of_held_out_predictions(stories, stories_calibration):
    pruner = LayerPruner(n_masks=12, max_remove=3, selector=ShapleyRanking(), random_state=0)
    pruner.fit(stories[0], stories_calibration)
    predicted = [p for p in pruner.removal_curve_.points[1:] if np.isnan(pruner.removal_scores_[p.n_remove - 1])]
    assert predicted
    residuals = pruner.scores_ - pruner.predictions_
    for point in predicted:
        same = ((~pruner.masks_).sum(axis=1) == point.n_remove) & np.isfinite(residuals)
        expected = np.sqrt((residuals[same] ** 2).mean()) if same.any() else None
        assert point.scored_on == "predicted"
        assert point.score_error == (None if expected is None else pytest.approx(expected))
    assert any(point.score_error for point in predicted)


def test_an_unreachable_target_names_the_nearest(fitted, gpt2):
    model, _ = gpt2
    least = fitted.transform(model, 4).num_parameters()
    with pytest.raises(UnreachableTargetError, match=f"none of the 4 .*at most 1 par.*n_remove=4 with {least:,}"):
        fitted.transform(model, target=MaxParameters(1))
    points = fitted.removal_curve_.points[1:]
    nearest = min(points, key=lambda point: point.perplexity_increase)
    with pytest.raises(UnreachableTargetError, match=r"perplexity at most 0\.001% higher") as caught:
        fitted.choose_n_remove(model, "perplexity<=0.001%")
    assert caught.value.nearest.point == nearest
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.nearest) == (str(caught.value), caught.value.nearest)


def test_bad_requests_are_refused(fitted, gpt2):
    model, _ = gpt2
    with pytest.raises(ValueError, match="give either n_remove or target, got n_remove=2 and target='bytes<=1MB'"):
        fitted.transform(model, 2, target="bytes<=1MB")
    with pytest.raises(ValueError, match=r"whole model already meets the target \(at most .*\): it has 4,408,000 p"):
        fitted.transform(model, target=MaxParameters(5e6))
    with pytest.raises(TypeError, match=r"one of layershap\.targets, or text such as 'parameters<=80M'; got 3"):
        fitted.transform(model, target=3)
    with pytest.raises(NotFittedError):
        LayerPruner().choose_n_remove(model, "bytes<=1MB")
    smaller = fitted.transform(model, 1)
    with pytest.raises(ValueError, match="fitted on a model of 12 players"):
        fitted.transform(smaller, target="bytes<=1MB")


def test_methods_without_scores_meet_sizes_and_know_no_perplexity(gpt2, gpt2_calibration):
    model, _ = gpt2
    pruner = ShortGPT().fit(model, gpt2_calibration)
    found = pruner.choose_n_remove(model, "parameters<=3M")
    assert found.point.layers == tuple(pruner.removed_layers(found.n_remove))
    assert pruner.transform(model, target="parameters<=3M").num_parameters() == found.reached <= 3e6
    assert "unknown: this method scores no sets" in str(found)
    with pytest.raises(ValueError, match=r"LayerPruner\(utility=PerplexityRatio\(\)\), this method scores no sets"):
        pruner.choose_n_remove(model, "perplexity<=5%")


def test_other_scores_are_no_perplexities(stories, stories_calibration):
    pruner = LayerPruner(n_masks=20, max_remove=2, utility=NegativeLogLikelihood(), random_state=0)
    pruner.fit(stories[0], stories_calibration)
    assert "score -" in str(pruner.choose_n_remove(stories[0], "parameters<=240K"))
    with pytest.raises(ValueError, match="this fit's scores are NegativeLogLikelihood"):
        pruner.choose_n_remove(stories[0], "perplexity<=5%")
    with pytest.raises(ValueError, match="one of"):
        pruner.removal_curve_.point(3)


def test_errors_are_needed_to_stay_below_a_limit_by_them(few, stories):
    with pytest.raises(ValueError, match="standard_errors=2 needs scores with errors"):
        few.choose_n_remove(stories[0], MaxPerplexityIncrease(1000, 2))


def test_a_target_is_a_matter_of_transform(fitted, gpt2):
    """Neither a parameter nor kept: clone, pipelines and n_remove are as before."""
    assert "target" not in clone(fitted).get_params()
    pruner = LayerPruner(n_remove=2, max_remove=2, selector=ShapleyRanking(), n_masks=14, random_state=0)
    pipeline = make_pipeline(pruner)
    text = Calibration.from_texts(load_calibration_text()[:1], gpt2[1], seq_len=24, n_sequences=4)
    assert pipeline.fit(gpt2[0], text).transform(gpt2[0]).config.n_layer == 10
    assert pruner.transform(gpt2[0], target="parameters<=4.2M").config.n_layer == 11  # instead of the constructor's 2
    assert pruner.transform(gpt2[0]).config.n_layer == 10


def test_the_reports_curve_is_the_fits_also_from_its_file(fitted, tmp_path):
    curve = fitted.removal_curve_
    report = fitted.report_
    assert report.curve() == curve
    assert PruningReport.load(report.save(tmp_path / "report.json")).curve() == curve
    assert [point.n_remove for point in curve.points] == [0, 1, 2, 3, 4]
    for point, removal in zip(curve.points[1:], report.removals, strict=True):
        assert (point.n_parameters, point.score) == (removal.n_parameters, removal.score)
        assert point.least_sure == min(removal.probabilities)
        assert point.over_greedy == removal.comparison.over_greedy
    table = curve.table()
    assert table.rows[3][table.columns.index("layers")] == ", ".join(map(str, fitted.removed_layers(3)))
    assert "held back" in str(curve)
    assert curve._repr_html_().startswith("<table>")
    assert table.to_html() in report.to_html()


def test_the_log_says_what_was_chosen(fitted, gpt2, caplog):
    with caplog.at_level(logging.INFO, logger="layershap"):
        fitted.transform(gpt2[0], target="parameters<=4M")
    assert caplog.messages == [str(fitted.choose_n_remove(gpt2[0], "parameters<=4M"))]
    assert "target: at most 4,000,000 parameters\nremove 2 (" in caplog.text

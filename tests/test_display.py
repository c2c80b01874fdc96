"""Displays of a real fit: what is drawn is what was found."""

from __future__ import annotations

import dataclasses

import matplotlib
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from layershap import LayerGame, LayerPruner, StratifiedValues
from layershap.display import (
    ContributionDisplay,
    DepthCurveDisplay,
    InteractionDisplay,
    RemovalCurveDisplay,
    SurrogateDisplay,
)
from layershap.report import SpeedRecord
from layershap.targets import RemovalSpeed

_VETO = "veto player: the model is lost without it"


@pytest.fixture(scope="module")
def pruner(gpt2, gpt2_calibration):
    return LayerPruner(n_masks=80, random_state=0, protect=(0,)).fit(gpt2[0], gpt2_calibration)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_contributions(pruner):
    display = ContributionDisplay.from_estimator(pruner, n_remove=3).plot()
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in display.ax_.patches}
    assert heights == {layer: pruner.contributions_[layer] for layer in range(1, 12)}
    colours = {round(bar.get_x() + bar.get_width() / 2): bar.get_facecolor() for bar in display.ax_.patches}
    marked = [layer for layer, colour in colours.items() if colour == matplotlib.colors.to_rgba("#EE6677")]
    assert sorted(marked) == pruner.removed_layers(3)
    legend = {text.get_text() for text in display.ax_.get_legend().get_texts()}
    assert legend == {"kept", "removed", "protected"} | ({_VETO} if len(pruner.veto_players_) else set())


def test_removed_layers_of_no_value_are_marked_all_the_same():
    """A bar near zero shows no colour."""
    values = np.array([5.0, 0.0, 1e-9, 3.0])
    display = ContributionDisplay(values, np.zeros(4), np.array([0, 1, 1, 0], dtype=bool), tuple("0123")).plot()
    display.figure_.canvas.draw()
    (marks,) = [line for line in display.ax_.lines if line.get_marker() == "^"]
    assert marks.get_xdata().tolist() == [1, 2]
    assert marks.get_color() == "#EE6677"
    image = np.asarray(display.figure_.canvas.buffer_rgba())[..., :3].astype(int)
    red = np.abs(image - [0xEE, 0x66, 0x77]).max(axis=2) < 8
    left, right = (display.ax_.transData.transform((x, 0))[0] for x in (0.5, 2.5))
    height, bottom = image.shape[0], display.ax_.transAxes.transform((0, 0))[1]
    above_axis = slice(height - int(bottom) - 20, height - int(bottom))
    assert red[above_axis, int(left) : int(right)].sum() > 20


def test_interactions_are_placed_by_layer(pruner):
    display = InteractionDisplay.from_estimator(pruner).plot()
    shown = np.asarray(display.ax_.images[0].get_array().filled(np.nan))
    assert np.isnan(shown[0]).all()
    assert np.isnan(np.diag(shown)).all()
    assert shown[2, 7] == pruner.interactions_[2, 7]


def test_interactions_need_a_surrogate_that_has_them(gpt2, gpt2_calibration):
    linear = LayerPruner(
        random_state=0, surrogate=LinearRegression(), max_remove=2, n_masks=30, values=StratifiedValues(n_marginals=500)
    ).fit(gpt2[0], gpt2_calibration)
    with pytest.raises(ValueError, match=r"such as HammingProcess; the fit's was LinearRegression\(\)"):
        InteractionDisplay.from_estimator(linear)
    assert linear.report_.to_html().count("<img") == 4


def test_surrogate(pruner):
    display = SurrogateDisplay.from_estimator(pruner).plot()
    drawn = np.isfinite(pruner.predictions_)
    assert 0 < drawn.sum() < len(drawn)
    np.testing.assert_array_equal(display.ax_.collections[0].get_offsets()[:, 0], pruner.scores_[drawn])
    np.testing.assert_array_equal(display.ax_.collections[0].get_offsets()[:, 1], pruner.predictions_[drawn])


def test_surrogate_without_a_finite_prediction():
    for scores, predictions in ((np.array([1.0, 2.0]), np.array([np.nan, np.inf])), (np.empty(0), np.empty(0))):
        display = SurrogateDisplay(scores, predictions, np.arange(len(scores)), float("nan")).plot()
        display.figure_.canvas.draw()
        assert len(display.ax_.collections[0].get_offsets()) == 0


def test_depth_with_baselines_on_other_text(pruner, gpt2, gpt2_calibration):
    class LastLayers:
        def removed_layers(self, n_remove):
            return list(range(12 - n_remove, 12))

    with LayerGame(gpt2[0], gpt2_calibration) as game:
        display = DepthCurveDisplay.from_estimator(pruner, game, {"last": LastLayers()})
        without_last = np.arange(12) < 11
        assert display.curves["last"][1] == game(without_last)[0]
        assert display.curves["layershap"][4] == game(pruner.get_support(4))[0]
    display.plot()
    assert [line.get_label() for line in display.ax_.lines] == ["layershap", "last"]
    assert display.ylabel == "PerplexityRatio"
    with pytest.raises(ValueError, match="baselines need a game"):
        DepthCurveDisplay.from_estimator(pruner, baselines={"last": LastLayers()})


def test_depth_of_a_report_has_no_invented_points(pruner):
    display = DepthCurveDisplay.from_estimator(pruner)
    evaluated = [removal.score is not None for removal in pruner.report_.removals]
    assert np.isfinite(display.curves["measured"]).tolist() == [True, *evaluated]


def test_plot_draws_on_the_axes_given_and_computes_nothing(pruner):
    figure, axes = plt.subplots(1, 4)
    displays = [ContributionDisplay, InteractionDisplay, SurrogateDisplay, DepthCurveDisplay]
    for display, ax in zip(displays, axes, strict=True):
        made = display.from_estimator(pruner)
        before = {name: np.copy(value) for name, value in vars(made).items() if isinstance(value, np.ndarray)}
        assert made.plot(ax) is made
        assert made.ax_ is ax
        for name, value in before.items():
            np.testing.assert_array_equal(getattr(made, name), value)
    assert plt.get_fignums() == [figure.number]


def test_which_number_to_remove(pruner):
    """With a cheap measurement of speed: what is left is drawn in percent of the whole model."""
    curve = pruner.removal_curve_
    record = SpeedRecord(1, 8, 2, 2.0, 4.0, None, None)
    faster = dataclasses.replace(record, prefill_seconds=1.0)
    timed = curve.with_speed(RemovalSpeed((0, 8), (record, faster), pruner.environment_))
    display = RemovalCurveDisplay.from_curve(timed).plot()
    assert display.n_removed.tolist() == [point.n_remove for point in curve.points]
    np.testing.assert_allclose(display.quality[1:], 1 / pruner.removal_scores_)
    assert display.left["parameters"][0] == display.left["prefill time, batch 1"][0] == 100
    assert display.left["prefill time, batch 1"][8] == 50
    assert display.left["parameters"][4] == pytest.approx(100 * 3_170_880 / 4_408_000)
    assert display.ax_.get_yscale() == "log"
    drawn = [line for line in display.ax_.lines if line.get_marker() == "o"]
    hollow = [n for line in drawn if line.get_markerfacecolor() == "white" for n in line.get_xdata().tolist()]
    assert hollow == [p.n_remove for p in curve.points[1:] if p.least_sure is not None and p.least_sure < 0.5]
    assert sum(len(line.get_xdata()) for line in drawn) == len(curve.points)


def test_a_curve_of_other_scores_and_one_of_none(pruner):
    """Scores that are no perplexities are drawn as they are."""
    curve = pruner.removal_curve_
    points = [dataclasses.replace(point, perplexity_increase=None) for point in curve.points]
    other = dataclasses.replace(curve, points=tuple(points), score_name="mine")
    display = RemovalCurveDisplay.from_curve(other).plot()
    assert display.ax_.get_yscale() == "linear"
    assert display.ax_.get_ylabel().startswith("mine")
    np.testing.assert_array_equal(display.quality[1:], pruner.removal_scores_)
    without = dataclasses.replace(curve, points=tuple(dataclasses.replace(p, score=None) for p in points))
    with pytest.raises(ValueError, match="a picture needs a curve with scores"):
        RemovalCurveDisplay.from_curve(without)


def test_the_removal_curve_marks_the_whole_model_and_the_choice(pruner):
    """The whole model's ratio, 1, has a tick; what is drawn hollow is told; a target's choice has a line."""
    display = RemovalCurveDisplay.from_estimator(pruner, n_remove=3).plot()
    display.figure_.canvas.draw()
    assert "1" in [label.get_text() for label in display.ax_.get_yticklabels()]
    (line,) = [line for line in display.ax_.lines if line.get_linestyle() == ":"]
    assert list(line.get_xdata()) == [3, 3]
    legend = [text.get_text() for text in display.right_ax_.get_legend().get_texts()]
    assert "3 layers removed" in legend
    assert "... unsure: in under half of resamples" in legend
    assert display.ax_.get_ylabel().endswith("of masked models on the calibration text")
    with pytest.raises(ValueError, match="n_remove must be one of"):
        RemovalCurveDisplay.from_estimator(pruner, n_remove=40)
    assert RemovalCurveDisplay.from_report(pruner.report_).chosen is None


def test_veto_players_are_told_from_protected_layers():
    values, veto = np.array([np.nan, 0.7, np.nan, 0.1]), np.array([False, True, True, False])
    removed = np.zeros(4, dtype=bool)
    display = ContributionDisplay(values, np.zeros(4), removed, tuple("0123"), veto=veto).plot()
    marks = {
        line.get_label(): line.get_xdata().tolist() for line in display.ax_.lines if line.get_marker() in ("x", "+")
    }
    assert marks == {"protected": [0], "veto player of unknown value": [2]}
    legend = {text.get_text() for text in display.ax_.get_legend().get_texts()}
    assert legend == {"kept", _VETO, *marks}


def test_a_report_says_which_bars_are_veto_players(pruner):
    report = pruner.report_
    layers = [dataclasses.replace(layer, remark="veto player" if layer.index == 5 else "") for layer in report.layers]
    display = ContributionDisplay.from_report(dataclasses.replace(report, layers=tuple(layers)))
    assert np.flatnonzero(display.veto).tolist() == [5]


def test_a_colour_bar_of_one_size_names_that_size():
    display = SurrogateDisplay(np.array([0.4, 0.6]), np.array([0.5, 0.5]), np.array([1, 1]), 0.1).plot()
    display.figure_.canvas.draw()
    (bar,) = [ax for ax in display.figure_.axes if ax is not display.ax_]
    assert [label.get_text() for label in bar.get_yticklabels()] == ["1"]


def test_long_labels_stay_within_the_picture():
    """Of a comparison under a protocol with a long name."""
    ylabel = "perplexity (answers of the chats alone, rendered by the model's chat template, n = 1,024)"
    display = DepthCurveDisplay(np.arange(3), {"a": np.array([1.0, 2, 3])}, ylabel, logarithmic=True).plot()
    display.figure_.canvas.draw()
    label = display.ax_.yaxis.label.get_window_extent()
    assert label.x0 >= 0
    assert label.y0 >= 0
    assert label.y1 <= display.figure_.bbox.height
    assert display.ax_.get_ylabel().replace("\n", " ") == ylabel

"""`compare` against direct measurements, and its table, records and picture."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from layershap import Calibration, LayerPruner, remove_layers
from layershap.baselines import SLEB, BlockPruner, LastLayers, ShortenedLlama, ShortGPT, SliceGPT
from layershap.comparison import compare
from layershap.tasks import Task
from layershap.utilities import NegativeLogLikelihood, PerplexityRatio

METHODS = {
    "layershap": LayerPruner(n_masks=31, random_state=0),
    "ShortGPT": ShortGPT(),
    "last": LastLayers(),
    "SLEB": SLEB(),
    "SliceGPT": SliceGPT(),
}


@pytest.fixture(scope="module")
def held_out(stories):
    ids = torch.randint(5, 500, (3, 32), generator=torch.Generator().manual_seed(0))
    return Calibration(ids, ids.clone())


@pytest.fixture(scope="module")
def table(stories, stories_calibration, held_out):
    tasks = {
        "ratio": (PerplexityRatio(), stories_calibration),
        "depth": lambda model: float(model.config.num_hidden_layers),
    }
    return compare(stories[0], stories_calibration, held_out, METHODS, [1, 3, 4], tasks=tasks)


def perplexity(model, calibration):
    with torch.no_grad():
        logits = model(calibration.ids_ST, use_cache=False).logits[:, :-1]
    return math.exp(float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), calibration.ids_ST[:, 1:].flatten())))


def test_perplexities_are_those_of_the_physically_pruned_models(table, stories, held_out):
    assert table.dense.perplexity == pytest.approx(perplexity(stories[0], held_out), rel=1e-5)
    for choice in table.choices:
        if choice.method == "SliceGPT":
            continue
        small = remove_layers(stories[0], choice.layers)
        assert choice.perplexity == pytest.approx(perplexity(small, held_out), rel=1e-4)
        assert len(choice.layers) == choice.n_remove


def test_choices_are_those_of_the_methods_fitted_alone(table, stories, stories_calibration):
    assert table["last", 3].layers == (2, 3, 4)
    assert list(table["ShortGPT", 3].layers) == ShortGPT().fit(stories[0], stories_calibration).removed_layers(3)
    assert table.costs["SLEB"].masks == 1 + 3 + 2 + 1
    assert table.costs["last"].layer_runs == 0
    assert table.costs["ShortGPT"].layer_runs == 5


def test_a_method_that_narrows_is_measured_on_what_it_returns(table, stories, stories_calibration, held_out):
    narrow = SliceGPT().fit(stories[0], stories_calibration).transform(stories[0], 3)
    assert table["SliceGPT", 3].perplexity == pytest.approx(perplexity(narrow, held_out), rel=1e-4)
    assert table["SliceGPT", 3].layers == ()


def test_what_a_method_cannot_remove_is_left_out(table):
    assert math.isnan(table.curve("SLEB")[2])  # its barriers keep two of five layers
    with pytest.raises(KeyError, match="SLEB"):
        table["SLEB", 4]


def test_tasks(table, stories, stories_calibration):
    dense = perplexity(stories[0], stories_calibration)
    small = remove_layers(stories[0], table["last", 3].layers)
    assert table["last", 3].tasks["ratio"] == pytest.approx(dense / perplexity(small, stories_calibration), rel=1e-4)
    assert table.dense.tasks["ratio"] == pytest.approx(1)
    assert table.curve("last", "depth") == [5, 5, 5]  # called on the masked model, whose config is the whole one's


def test_table_and_records(table):
    text = str(table)
    lines = text.splitlines()
    assert lines[0] == "| perplexity | -1 | -3 | -4 | masks | layer runs | seconds |"
    assert sum(line.startswith("| ShortGPT |") for line in lines) == 3  # perplexity and two tasks
    records = json.loads(json.dumps(table.to_records()))
    assert len(records) == 1 + len(table.choices)
    assert records[1]["layers"] == list(table.choices[0].layers)
    assert {"method", "n_remove", "perplexity", "masks", "layer_runs", "seconds", "ratio"} <= set(records[1])


def test_plot_draws_the_numbers(table):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    ax = table.plot(pyplot.figure().subplots()).ax_
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_array_equal(drawn["last"], [table.dense.perplexity, *table.curve("last")])
    assert set(METHODS) <= set(drawn)
    assert ax.get_yscale() == "log"
    pyplot.close("all")


def test_bad_input(stories, stories_calibration, held_out):
    with pytest.raises(ValueError, match="needs a method"):
        compare(stories[0], stories_calibration, held_out, {}, [1])
    with pytest.raises(ValueError, match=r"no method can remove \[5\]"):
        compare(stories[0], stories_calibration, held_out, {"one-shot": ShortenedLlama()}, [1, 5])
    with pytest.raises(ValueError, match="among 10 players"):
        compare(stories[0], stories_calibration, held_out, {"sublayers": BlockPruner(max_remove=1)}, [1])


def test_a_number_that_no_method_can_remove_comes_with_each_methods_reason(stories, stories_calibration, held_out):
    methods = {"layershap": LayerPruner(n_masks=31, max_remove=2, random_state=0), "SLEB": SLEB(), "last": LastLayers()}
    with pytest.raises(ValueError, match=r"no method can remove \[5\]") as caught:
        compare(stories[0], stories_calibration, held_out, methods, [4, 5])
    first, *reasons = str(caught.value).splitlines()
    assert first.endswith("layers of this model:")
    assert [reason.split(":")[0].strip() for reason in reasons] == ["layershap", "SLEB", "last"]
    assert all("n_remove" in reason and "5" in reason for reason in reasons)
    with pytest.raises(ValueError, match=r"fit again with max_remove=4"):
        compare(stories[0], stories_calibration, held_out, {"layershap": methods["layershap"]}, [4])


def test_wrong_kinds_of_arguments_are_named(stories, stories_calibration, held_out):
    def compared(methods=METHODS, n_removes=(1,), calib_data=stories_calibration, eval_data=held_out, tasks=None):
        return compare(stories[0], calib_data, eval_data, methods, n_removes, tasks=tasks)

    with pytest.raises(TypeError, match="methods must be a mapping of name to estimator"):
        compared(methods=[ShortGPT()])
    for wrong in ([2.9], [True], ["2"], 2):
        with pytest.raises(TypeError, match="n_removes must be a sequence of ints"):
            compared(n_removes=wrong)
    for column in ("masks", "layer_runs", "seconds", "perplexity", "n_remove", "method", "layers"):
        with pytest.raises(ValueError, match=f"named like a column .* got '{column}'"):
            compared(tasks={column: lambda model: 0.0})
    task = Task("odd", stories_calibration, NegativeLogLikelihood(), {"nll": NegativeLogLikelihood()})
    with pytest.raises(TypeError, match=r"\['odd'\] must be .*give \(task.utility, task.calibration\).*'nll'"):
        compared(tasks={"odd": task})
    with pytest.raises(TypeError, match="tasks must be a mapping"):
        compared(tasks=[task])
    with pytest.raises(TypeError, match=r"calib_data must be .*give task.calibration"):
        compared(calib_data=task)
    with pytest.raises(TypeError, match=r"eval_data must be .*give task.calibration"):
        compared(eval_data=task)


def test_numpy_numbers_are_numbers(stories, stories_calibration, held_out):
    found = compare(stories[0], stories_calibration, held_out, {"last": LastLayers()}, np.arange(1, 3))
    assert found.n_removes == (1, 2)


def test_a_fit_on_text_in_parts_counts_its_masks_once_and_its_layer_runs(stories, stories_calibration, held_out):
    pruner = LayerPruner(n_masks=31, random_state=0)
    cost = compare(stories[0], stories_calibration, held_out, {"layershap": pruner}, [1]).costs["layershap"]
    alone = pruner.fit(stories[0], stories_calibration)
    tokens = stories_calibration.n_sequences * stories_calibration.seq_len
    assert alone.diagnostics_["layer_run_tokens"] < alone.diagnostics_["n_evaluated"] * 5 * tokens
    assert cost.masks == len(np.unique(np.concatenate([alone.masks_, np.ones((1, 5), dtype=bool)]), axis=0))
    assert cost.layer_runs == round(alone.diagnostics_["layer_run_tokens"] / tokens)

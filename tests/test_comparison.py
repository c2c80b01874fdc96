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
from layershap.utilities import PerplexityRatio

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

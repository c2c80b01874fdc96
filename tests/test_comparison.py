"""`compare` against direct measurements, and its table, records and picture."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas
import pytest
import torch
from datasets import Dataset

from layershap import PERPLEXITY_PROTOCOLS, Calibration, LayerPruner, evaluate, remove_layers
from layershap.baselines import SLEB, BlockPruner, LastLayers, ShortenedLlama, ShortGPT, SliceGPT
from layershap.comparison import compare
from layershap.datasets import load_calibration_text, load_evaluation_text
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
    figure = "perplexity (sequences of 32 tokens as given, n = 3)"
    assert lines[0] == f"| {figure} | -1 | -3 | -4 | masks | layer runs | seconds |"
    assert sum(line.startswith("| ShortGPT |") for line in lines) == 3  # perplexity and two tasks
    records = json.loads(json.dumps(table.to_records()))
    assert len(records) == len(METHODS) + len(table.choices)
    assert records[1]["layers"] == list(table.choices[0].layers)
    assert {"method", "n_remove", "perplexity", "masks", "layer_runs", "seconds", "ratio"} <= set(records[1])
    assert {(record["protocol"], record["n_sequences"]) for record in records} == {
        ("sequences of 32 tokens as given", 3)
    }
    frame = pandas.DataFrame(records).pivot(index="n_remove", columns="method", values="perplexity")
    assert list(frame.index) == [0, 1, 3, 4]
    assert set(frame.columns) == set(METHODS)
    assert (frame.loc[0] == table.dense.perplexity).all()
    np.testing.assert_array_equal(frame["SLEB"][1:], table.curve("SLEB"))


def test_a_notebook_shows_tables_and_names_are_escaped(stories, stories_calibration, held_out):
    methods = {"<b>last</b> | first": LastLayers()}
    found = compare(stories[0], stories_calibration, held_out, methods, [2], tasks={"a|b": lambda model: 1.0})
    page = found._repr_html_()
    assert page.count("<table>") == 2
    assert "&lt;b&gt;last" in page
    assert "<b>" not in page


def test_plot_draws_the_numbers(table):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    ax = table.plot(pyplot.figure().subplots()).ax_
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_array_equal(drawn["last"], [table.dense.perplexity, *table.curve("last")])
    assert set(METHODS) <= set(drawn)
    assert ax.get_yscale() == "log"
    pyplot.close("all")


def test_texts_are_measured_whole_under_a_named_protocol(gpt2, tmp_path):
    model, tokenizer = gpt2
    texts = [text[:1500] for text in load_evaluation_text()[:6]]
    data = {"calib_data": load_calibration_text()[:4], "methods": {"last": LastLayers()}, "tokenizer": tokenizer}
    for options in ({}, {"protocol": "seq128-bos"}, {"n_sequences": 3}):
        want = evaluate(model, tokenizer, texts=texts, **options)["text", "perplexity"]
        pruned = evaluate(remove_layers(model, [10, 11]), tokenizer, texts=texts, **options)["text", "perplexity"]
        for eval_data in (texts, Dataset.from_dict({"text": texts})):
            found = compare(model, eval_data=eval_data, n_removes=[2], **data, **options)
            assert (found.protocol, found.n_sequences) == (want.protocol, want.n)
            assert found.dense.perplexity == pytest.approx(want.value, rel=1e-4)
            assert found["last", 2].perplexity == pytest.approx(pruned.value, rel=1e-4)
        named = f"perplexity ({want.protocol}, n = {want.n})"
        assert named in str(found)
        assert found.display().ylabel == named
        assert found.to_records()[0]["n_sequences"] == want.n
    assert want.n == 3
    given = PERPLEXITY_PROTOCOLS["seq128"].sequences(texts, tokenizer, n_sequences=5)
    found = compare(model, eval_data=given, n_removes=[2], **data)
    assert (found.protocol, found.n_sequences) == ("seq128", 5)


def test_numbers_in_any_order_and_twice_make_one_curve(stories, stories_calibration, held_out):
    found = compare(stories[0], stories_calibration, held_out, {"last": LastLayers()}, [3, 1, 3])
    assert found.n_removes == (3, 1)
    shown = found.display()
    assert shown.n_removed.tolist() == [0, 1, 3]
    expected = [found.dense.perplexity, found["last", 1].perplexity, found["last", 3].perplexity]
    assert shown.curves["last"].tolist() == expected


class Plain:
    """A method of one's own: two functions, no base class, no other attribute."""

    def __init__(self, layers):
        self.layers = layers

    def fit(self, model, calib_data=None, *, tokenizer=None):
        self.seen_ = type(calib_data).__name__
        return self

    def removed_layers(self, n_remove=None):
        if n_remove > len(self.layers):
            raise ValueError(f"n_remove must be at most {len(self.layers)}")
        return self.layers[:n_remove]


def test_a_method_of_ones_own_needs_two_functions(stories, stories_calibration, held_out):
    own = Plain([3, 1])
    found = compare(stories[0], stories_calibration, held_out, {"own": own, "last": LastLayers()}, [2, 4])
    assert found["own", 2].layers == (1, 3)
    assert (found.costs["own"].masks, found.costs["own"].layer_runs) == (None, None)
    assert found.costs["own"].seconds > 0
    assert not hasattr(own, "seen_")
    row = next(line for line in str(found).splitlines() if line.startswith("| own |"))
    assert row.split(" | ")[3:5] == ["-", "-"]
    for wrong in ([1, 1], [1, 5], [1.0, 2.0], [1, -1]):
        with pytest.raises(ValueError, match=r"own.removed_layers\(2\) must give 2 different layers in \[0, 5\)"):
            compare(stories[0], stories_calibration, held_out, {"own": Plain(wrong)}, [2])


def test_numbers_in_any_order_are_one_curve_from_left_to_right(stories, stories_calibration, held_out):
    methods = {"last": LastLayers(), "own": Plain([3, 1, 0])}
    found = compare(stories[0], stories_calibration, held_out, methods, [3, 1, 2])
    display = found.plot()
    for line, method in zip(display.ax_.lines, methods, strict=True):
        assert list(line.get_xdata()) == [0, 1, 2, 3]
        expected = [found.dense.perplexity, *(found[method, n].perplexity for n in (1, 2, 3))]
        assert list(line.get_ydata()) == expected
    assert [choice.n_remove for choice in found.choices] == [3, 1, 2] * 2, "tables keep the order asked for"


def test_a_fitted_method_is_not_fitted_again(stories, stories_calibration, held_out):
    searched = LayerPruner(n_masks=31, random_state=0)
    fresh = compare(stories[0], stories_calibration, held_out, {"layershap": searched}, [1, 2])
    searched.fit(stories[0], stories_calibration)
    fitted = {"layershap": searched, "own": Plain([3, 1]).fit(stories[0]), "last": LastLayers().fit(stories[0])}
    expected = {name: method.removed_layers(2) for name, method in fitted.items()}

    def refuse(*args, **kwargs):
        raise AssertionError("fitted again")

    for method in fitted.values():
        method.fit = refuse
    found = compare(stories[0], None, held_out, fitted, [1, 2])
    assert {name: list(found[name, 2].layers) for name in fitted} == {k: sorted(v) for k, v in expected.items()}
    assert found.costs["layershap"].masks == fresh.costs["layershap"].masks
    assert found.costs["layershap"].layer_runs == fresh.costs["layershap"].layer_runs
    assert found.costs["layershap"].seconds == searched.diagnostics_["seconds"]
    assert found.costs["own"].seconds is None
    with pytest.raises(ValueError, match="calibration data is required"):
        compare(stories[0], None, held_out, {"last": LastLayers()}, [1])


def test_numbers_are_checked_before_anything_is_fitted(stories, stories_calibration, held_out):
    class Untouched(Plain):
        def fit(self, model, calib_data=None, *, tokenizer=None):
            raise AssertionError("fitted")

    for wrong in (0, -1, 5, 99):
        with pytest.raises(ValueError, match=rf"no method can remove \[{wrong}\] .*must lie in \[1, 4\]"):
            compare(stories[0], stories_calibration, held_out, {"own": Untouched([1])}, [1, wrong])


def test_bad_input(stories, stories_calibration, held_out):
    with pytest.raises(ValueError, match="needs a method"):
        compare(stories[0], stories_calibration, held_out, {}, [1])
    with pytest.raises(ValueError, match=r"no method can remove \[5\]"):
        compare(stories[0], stories_calibration, held_out, {"one-shot": ShortenedLlama()}, [1, 5])
    with pytest.raises(ValueError, match="among 10 players"):
        compare(stories[0], stories_calibration, held_out, {"sublayers": BlockPruner(max_remove=1)}, [1])


def test_a_number_that_no_method_can_remove_comes_with_each_methods_reason(stories, stories_calibration, held_out):
    methods = {"layershap": LayerPruner(n_masks=31, max_remove=2, random_state=0), "SLEB": SLEB()}
    methods["last"] = LastLayers(protect=[0, 1])
    with pytest.raises(ValueError, match=r"no method can remove \[4\]") as caught:
        compare(stories[0], stories_calibration, held_out, methods, [2, 4])
    first, *reasons = str(caught.value).splitlines()
    assert first.endswith("layers of this model:")
    assert [reason.split(":")[0].strip() for reason in reasons] == ["layershap", "SLEB", "last"]
    assert all("n_remove" in reason and "4" in reason for reason in reasons)
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
    with pytest.raises(TypeError, match=r"eval_data must be one kind of text.*\['book', 'chat'\].*evaluate\(texts="):
        compared(eval_data={"book": held_out, "chat": held_out})


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

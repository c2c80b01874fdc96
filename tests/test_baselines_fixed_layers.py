"""Layers that are named: scored by `compare` as their physical removal, and refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone

from layershap import UnreachableTargetError, compare, remove_layers
from layershap.baselines import FixedLayers, LastLayers
from layershap.cli import main
from layershap.datasets import load_published_sets, tiny_random

from .helpers.models import STORIES

ORDER = [7, 3, 9, 5]


def removed_perplexity(model, calibration, layers):
    with torch.no_grad():
        logits = remove_layers(model, layers)(calibration.ids_ST, use_cache=False).logits[:, :-1]
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), calibration.ids_ST[:, 1:].flatten())
    return float(nll.double().exp())


def test_compare_scores_them_as_their_physical_removal(gpt2, gpt2_calibration):
    methods = {
        "order": FixedLayers(ORDER),
        "set": FixedLayers({3, 7}),
        "mapping": FixedLayers({1: [5], 3: (3, 5, -5)}),
        "last": LastLayers(),
    }
    table = compare(gpt2[0], gpt2_calibration, gpt2_calibration, methods, [1, 2, 3])
    expected = {
        ("order", 1): [7],
        ("order", 2): [3, 7],
        ("order", 3): [3, 7, 9],
        ("set", 2): [3, 7],
        ("mapping", 1): [5],
        ("mapping", 3): [3, 5, 7],
    }
    assert {key: list(table[key].layers) for key in expected} == expected
    rows = {(row["method"], row["n_remove"]) for row in table.to_records()}
    assert ("set", 1) not in rows
    for key, layers in expected.items():
        reference = removed_perplexity(gpt2[0], gpt2_calibration, layers)
        assert table[key].perplexity == pytest.approx(reference, rel=1e-4)


def test_it_is_an_estimator_like_the_others(gpt2):
    method = FixedLayers({2: [3, 7], 1: [7]}, n_remove=2)
    again = clone(method).fit(gpt2[0])
    assert again.chosen == method.chosen
    assert again.sets_ == {1: (7,), 2: (3, 7)}
    assert again.removed_layers() == [3, 7]
    assert again.max_remove_ == 2
    assert np.flatnonzero(~again.get_support(1)).tolist() == [7]
    assert again.transform(gpt2[0]).config.n_layer == 10
    assert again.diagnostics_["n_evaluated"] == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"chosen": [3, 12]}, ValueError, r"must lie in \[0, 12\).* got \[12\]"),
        ({"chosen": [3, 3]}, ValueError, "distinct"),
        ({"chosen": [3, "7"]}, TypeError, "must be ints, got '7'"),
        ({"chosen": "3, 7"}, TypeError, "must be layer indices: a list in the order of removal, a set, or a mapping"),
        ({"chosen": 3}, TypeError, "got 3 of type int"),
        ({"chosen": []}, ValueError, "at least one layer"),
        ({"chosen": set()}, ValueError, "at least one layer"),
        ({"chosen": {}}, ValueError, "at least one layer"),
        ({"chosen": range(12)}, ValueError, "leave at least one of the 12 layers"),
        ({"chosen": {2: [3]}}, ValueError, "n layers for each n, got 1 layers for 2"),
        ({"chosen": {1: None}}, TypeError, "layer indices for each n, got None for 1"),
        ({"chosen": [3, 7], "protect": [7]}, ValueError, r"the 2 layers \[3, 7\] .* layer 7 is not: named in protect"),
        ({"chosen": {3, 7}, "n_remove": 1}, ValueError, r"holds sets of \[2\] layers, got n_remove=1"),
    ],
)
def test_what_can_not_be_removed_is_refused_by_fit(gpt2, arguments, error, message):
    with pytest.raises(error, match=message):
        FixedLayers(**arguments).fit(gpt2[0])


def test_a_number_without_a_set_is_refused(gpt2):
    fitted = FixedLayers([3, 7]).fit(gpt2[0])
    with pytest.raises(ValueError, match=r"holds sets of \[1, 2\] layers, got n_remove=3"):
        fitted.removed_layers(3)
    with pytest.raises(ValueError, match="how many layers"):
        fitted.removed_layers()


def test_a_target_is_met_by_the_smallest_set_that_was_given(gpt2):
    model = gpt2[0]
    fitted = FixedLayers({1: [5], 4: [3, 5, 7, 9]}).fit(model)
    size = remove_layers(model, [3, 5]).num_parameters()
    choice = fitted.choose_n_remove(model, f"parameters<={size}")
    assert (choice.n_remove, choice.point.layers) == (4, (3, 5, 7, 9))
    assert fitted.transform(model, target=f"parameters<={size}").num_parameters() == choice.reached < size
    with pytest.raises(UnreachableTargetError, match=r"none of the 2 removals .* nearest is n_remove=4"):
        fitted.transform(model, target="parameters<=1000")
    assert fitted.measure_removal_speed(model, prompt_tokens=4, new_tokens=1).depths == (0, 1, 4)


def test_a_layer_that_can_not_go_is_told_with_the_familys_rule():
    model = tiny_random("rwkv", n_layers=3)
    with pytest.raises(ValueError, match="layer 0 is not: it owns the norm of the embeddings"):
        FixedLayers({1: [0]}).fit(model)


def test_published_sets_are_methods():
    model = tiny_random("llama", n_layers=32, hidden_size=16)
    ids = torch.arange(60).view(2, 30)
    methods = {
        f"{found.method} {place}": FixedLayers(found.chosen)
        for place, found in enumerate(load_published_sets("Llama-2-7b-hf"))
    }
    table = compare(model, ids, ids, methods, [3, 6])
    assert len(table.to_records()) == 3 * len(methods), "the whole model, 3 and 6 layers removed"


def test_the_command_line_has_a_row_for_named_layers(story_file, capsys):
    text = ["--text", str(story_file), "--eval-text", str(story_file), "--seq-len", "48"]
    options = ["--methods", "last", "--fixed", "2", "1", "--n-remove", "1", "2"]
    assert main(["baselines", str(STORIES), *text, *options]) == 0
    assert "fixed" in capsys.readouterr().out

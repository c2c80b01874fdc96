"""What a report takes: files whose parts agree, and models that are its own."""

from __future__ import annotations

import json

import pytest
import torch

from layershap import LayerPruner, PruningReport, remove_layers
from layershap.exceptions import ReportFormatError


@pytest.fixture(scope="module")
def fitted(gpt2, gpt2_calibration):
    return LayerPruner(n_masks=60, max_remove=4, random_state=0, protect=(0,)).fit(gpt2[0], gpt2_calibration)


@pytest.fixture
def path(fitted, tmp_path):
    return fitted.report_.save(tmp_path / "report.json")


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return path


def outcome(**changed):
    size = {"n_layers": 12, "n_parameters": 9, "n_bytes": 9, "scores": [], "speed": []}
    where = {"versions": {}, "platform": "x", "device": "cpu", "threads": 1}
    optional = {"compensation": None, "generation": None}
    return {"removed": [1], "before": size, "after": dict(size), "environment": where, **optional, **changed}


@pytest.mark.parametrize("mark", [0, -5, True, "1", None, 1.0])
def test_a_format_that_never_was_is_refused(path, mark):
    change(path, lambda c: c.update(layershap_report=mark))
    with pytest.raises(ReportFormatError, match=f"with 'layershap_report': 4; got {mark!r}"):
        PruningReport.load(path)


@pytest.mark.parametrize("environment", [[], None, {"versions": []}, {"versions": {"layershap": 4}}])
def test_a_newer_format_of_any_layout_is_refused_as_newer(path, environment):
    change(path, lambda c: c.update(layershap_report=7, environment=environment))
    with pytest.raises(ReportFormatError, match="format 7, written by layershap unknown"):
        PruningReport.load(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["removals"][0].update(layers=[2, 3, 4]), r"removals\[0\]\.layers must be n_remove=1 layers"),
        (
            lambda c: c["removals"][0].update(layers=[99]),
            r"removals\[0\]\.layers must be different layers from 0 to 11",
        ),
        (lambda c: c["removals"][1].update(layers=[4, 2]), r"from 0 to 11, sorted, got \(4, 2\)"),
        (lambda c: c["removals"][1].update(layers=[4, 4]), r"must be different layers"),
        (lambda c: c["removals"][0].update(layers=[-1]), r"removals\[0\]\.layers\[0\] must be a count"),
        (lambda c: c["removals"][0].update(layers=[0]), r"removable layers, none that the report protects, got \[0\]"),
        (lambda c: c["removals"][1].update(n_remove=1), r"removals of different n_remove"),
        (lambda c: c["removals"][1].update(probabilities=[0.5]), r"\.probabilities must be"),
        (lambda c: c["removals"][1].update(probabilities=[0.5, 7]), r"\.probabilities must be"),
        (lambda c: c["layers"].reverse(), r"layers\[0\]\.index must be its place in the list, 0, got 11"),
        (lambda c: c["layers"][3].update(contribution=None), r"layers\[3\] must be an object with a contribution"),
        (lambda c: c["fit"].update(granularity="head"), r"granularity must be one of \('layer', 'sublayer'\)"),
        (lambda c: c["fit"].update(n_parameters=0), r"n_parameters must be at least 1"),
        (lambda c: c["fit"].update(n_parameters=10**30), r"n_parameters must be a count"),
        (lambda c: c["fit"].update(baseline_score=10**400), r"baseline_score must be a number of 64 bits"),
        (lambda c: c["surrogate"]["scores"].pop(), r"surrogate must be an object with as many n_removed"),
        (lambda c: c["surrogate"]["interactions"].pop(), r"interactions must be 11 rows of 11"),
        (lambda c: c.update(outcomes=[outcome(removed=[12])]), r"outcomes\[0\]\.removed must be different layers"),
        (lambda c: c["calibration"]["provenance"].update(parts=json.loads("[" * 20 + "]" * 20)), "JSON of few levels"),
    ],
)
def test_a_report_whose_parts_contradict_each_other_names_the_place(path, edit, message):
    change(path, edit)
    with pytest.raises(ReportFormatError, match=message):
        PruningReport.load(path)


def test_a_measured_report_needs_the_same_figures_of_both_models(path):
    speed = {"batch_size": 1, "prompt_tokens": 8, "new_tokens": 2, "prefill_seconds": 1.0}
    speed |= {"prefill_tokens_per_second": 8.0, "decode_seconds": None, "decode_tokens_per_second": None}
    content = outcome()
    content["after"]["speed"] = [speed]
    change(path, lambda c: c.update(outcomes=[content]))
    with pytest.raises(ReportFormatError, match=r"after\.speed must be the batch sizes of before\.speed, \[\]"):
        PruningReport.load(path)


def test_what_is_no_report_is_one_error_that_names_the_file(tmp_path):
    for content in ("[" * 100_000, '{"layershap_report": 1' + "0" * 5000 + "}", "[1]", "null", "", "\x00"):
        (tmp_path / "report.json").write_text(content)
        with pytest.raises(ReportFormatError, match=r"report\.json must be"):
            PruningReport.load(tmp_path / "report.json")
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReportFormatError, match=r"report\.json must be"):
        PruningReport.load(tmp_path / "report.json")
    with pytest.raises(ReportFormatError, match="it is a folder"):
        PruningReport.load(tmp_path)


def test_a_model_of_another_depth_is_refused_before_anything_is_measured(fitted, gpt2):
    shallow = remove_layers(gpt2[0], [3])
    with pytest.raises(ValueError, match=r"report is of a model of 12 layers .* the model given has 11"):
        # No tokenizer for the texts: an evaluation would raise TypeError or ValueError of its own.
        fitted.report_.measure(shallow, remove_layers(gpt2[0], [3, 4]), texts="text")


def test_a_pruned_model_that_is_none_of_the_reports_is_refused(fitted, gpt2):
    model = gpt2[0]
    chosen = fitted.removed_layers(2)
    other = next([a, 11] for a in range(1, 11) if [a, 11] != chosen)
    stranger = remove_layers(model, other)
    with pytest.raises(ValueError, match=rf"it lacks layers \[{other[0]}, 11\], the report's of this size"):
        fitted.report_.measure(model, stranger, batch_sizes=())
    with pytest.raises(ValueError, match="it lacks layers"):
        fitted.report_.measure(model, stranger, batch_sizes=(), n_remove=2)
    with pytest.raises(ValueError, match="pruned must lack n_remove=3 layers, it lacks 2 of 12"):
        fitted.report_.measure(model, fitted.transform(model, 2), batch_sizes=(), n_remove=3)


def test_layers_that_are_copies_of_each_other_may_stand_for_each_other(gpt2, gpt2_calibration):
    """Models made deeper by repeating layers: which of two copies is missing can't be seen, and makes no difference."""
    from copy import deepcopy

    model = deepcopy(gpt2[0])
    with torch.no_grad():
        for name, value in model.transformer.h[6].named_parameters():
            value.copy_(model.transformer.h[5].get_parameter(name))
    pruner = LayerPruner(n_masks=60, max_remove=2, random_state=0, protect=(1, 2, 3, 4, 5)).fit(model, gpt2_calibration)
    report = pruner.report_
    n_remove = next((n for n in (1, 2) if 6 in pruner.removed_layers(n)), None)
    assert n_remove is not None
    (measured,) = report.measure(model, pruner.transform(model, n_remove), batch_sizes=()).outcomes
    assert measured.removed == report.removal(n_remove).layers

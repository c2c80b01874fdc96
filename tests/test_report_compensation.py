"""A report of a compensated model says what was changed, on which text and to which end; so does its card."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from transformers import AutoModelForCausalLM

from layershap import Calibration, LayerPruner, PruningReport, ShapleyRanking, StratifiedValues, remove_layers
from layershap.compensation import LinearRefit, Rescale, compensation_record
from layershap.datasets import load_calibration_text
from layershap.exceptions import ReportFormatError
from layershap.report import measure_outcome

UNCHANGED = "Removing them left the other layers' weights unchanged"


@pytest.fixture(scope="module")
def text(gpt2):
    return Calibration.from_texts(load_calibration_text(), gpt2[1], seq_len=64, n_sequences=24)


@pytest.fixture(scope="module")
def fitted(gpt2, text):
    pruner = LayerPruner(
        compensation=LinearRefit(ridges=(1.0,)),
        selector=ShapleyRanking(),
        values=StratifiedValues(n_marginals=500),
        max_remove=2,
        n_masks=40,
        random_state=0,
    )
    return pruner.fit(gpt2[0], text)


@pytest.fixture(scope="module")
def small(fitted, gpt2):
    return fitted.transform(gpt2[0], 2)


@pytest.fixture(scope="module")
def report(fitted, gpt2, small):
    return fitted.report_.measure(gpt2[0], small, batch_sizes=())


def test_an_outcome_keeps_the_record(report, fitted, small, text, tmp_path):
    (outcome,) = report.outcomes
    record = outcome.compensation
    assert record == compensation_record(small)
    assert record.changes
    assert outcome.removed == record.removed == tuple(fitted.removed_layers(2))
    assert record.text == text.provenance
    assert PruningReport.load(report.save(tmp_path / "report.json")) == report


def test_tables_page_and_card_show_what_was_changed(report, small):
    record = compensation_record(small)
    card = report.to_model_card(2, name="small")
    losses = f"{record.loss_before:.4f} -> {record.loss_after:.4f}"
    perplexities = f"{math.exp(record.loss_before):.4g} -> {math.exp(record.loss_after):.4g}"
    change = record.changes[0]
    for shown in (str(report), report.to_html(), card.text):
        shown = shown.replace("&gt;", ">")
        assert losses in shown
        assert perplexities in shown
        assert f"{record.n_tokens:,} tokens to fit to, {record.n_held_out:,} held out" in shown
        assert f"layer {change.layer} {change.module}: {change.kind}" in shown
    assert "compensation_1" in report.tables()
    assert UNCHANGED not in card.text
    assert f"LinearRefit made up for the removed layers by {len(record.changes)} change" in card.text
    assert "the masked model without these layers" in card.text
    assert "since, such as training or quantising it, isn't told here" in card.text


def test_a_card_knows_the_outcome_of_a_reloaded_checkpoint(fitted, gpt2, small, tmp_path):
    """Whose record has lost the provenance of the text."""
    small.save_pretrained(tmp_path)
    reloaded = type(small).from_pretrained(tmp_path)
    measured = fitted.report_.measure(gpt2[0], reloaded, batch_sizes=())
    assert compensation_record(reloaded) != compensation_record(small)
    assert "Before and after" in measured.to_model_card(2, name="small", compensation=compensation_record(small)).text


def test_settings_of_the_fit_hold_the_compensation(fitted, report):
    assert report.fit.settings["compensation"] == repr(fitted.compensation)
    assert "LinearRefit(ridges=(1.0,)), by transform" in str(report.tables()["summary"])
    plain = dataclasses.replace(report.fit, settings={**report.fit.settings, "compensation": "None"})
    assert "by transform" not in str(dataclasses.replace(report, fit=plain).tables()["summary"])


def test_a_card_has_no_figures_of_a_model_that_was_changed_otherwise(report, fitted, gpt2, small):
    assert UNCHANGED in fitted.report_.to_model_card(2, name="small").text
    plain = report.to_model_card(2, name="small", compensation=None).text
    assert UNCHANGED in plain
    assert "Before and after" not in plain
    record = compensation_record(small)
    assert "Before and after" in report.to_model_card(2, name="small", compensation=record).text
    none = dataclasses.replace(record, changes=(), loss_after=record.loss_before)
    card = report.to_model_card(2, name="small", compensation=none).text
    assert "Before and after" not in card
    found = f"found no change that lowers the loss on these ({record.loss_before:.4f} nats per token)"
    assert f"{found}: the kept layers are unchanged" in card


def test_the_removed_layers_of_a_compensated_model_are_those_of_its_record(fitted, gpt2, small, text):
    model = gpt2[0]
    removed = tuple(fitted.removed_layers(2))
    assert measure_outcome(model, small, batch_sizes=()).removed == removed
    other = next([a, 10] for a in range(1, 10) if (a, 10) != removed)
    stranger = remove_layers(model, other, compensation=Rescale(), calibration=text)
    with pytest.raises(ValueError, match=rf"it lacks layers \[{other[0]}, 10\], the report's of this size"):
        fitted.report_.measure(model, stranger, batch_sizes=())


def test_a_model_that_was_loaded_is_known_to_be_compensated(fitted, gpt2, small, tmp_path):
    small.save_pretrained(tmp_path / "small")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    report = fitted.report_.measure(gpt2[0], loaded, batch_sizes=())
    assert report.outcomes[0].compensation == dataclasses.replace(compensation_record(small), text={})
    assert PruningReport.load(report.save(tmp_path / "report.json")) == report
    card = report.to_model_card(2, name="small").text
    assert UNCHANGED not in card
    assert "LinearRefit made up for the removed layers" in card
    # Layers that go from a compensated model leave the others as they were.
    assert measure_outcome(loaded, remove_layers(loaded, [3]), batch_sizes=()).compensation is None


def test_reports_of_the_former_format_are_read(report, tmp_path):
    path = report.save(tmp_path / "report.json")
    content = json.loads(path.read_text())
    assert content["layershap_report"] == 4
    content["layershap_report"] = 1
    del content["outcomes"][0]["compensation"], content["outcomes"][0]["generation"]
    path.write_text(json.dumps(content))
    expected = tuple(dataclasses.replace(outcome, compensation=None) for outcome in report.outcomes)
    assert PruningReport.load(path) == dataclasses.replace(report, outcomes=expected)
    content["layershap_report"] = 2
    path.write_text(json.dumps(content))
    with pytest.raises(ReportFormatError, match=r"outcomes\[0\] must have the fields .* missing \['compensation'\]"):
        PruningReport.load(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(removed=[2, 12]), r"compensation\.removed must be different layers from 0 to 11"),
        (lambda c: c["changes"][0].update(layer=12), r"compensation\.changes must be changes of layers from 0 to 11"),
        (lambda c: c.update(loss_after="low"), r"compensation\.loss_after must be a number"),
    ],
)
def test_a_damaged_record_names_the_place(report, tmp_path, edit, message):
    path = report.save(tmp_path / "report.json")
    content = json.loads(path.read_text())
    edit(content["outcomes"][0]["compensation"])
    path.write_text(json.dumps(content))
    with pytest.raises(ReportFormatError, match=message):
        PruningReport.load(path)

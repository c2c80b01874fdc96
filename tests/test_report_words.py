"""What a report tells in words: perplexities, megabytes, doubts, names and counts, in text, page, card and file."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from layershap import (
    Calibration,
    LayerPruner,
    PruningReport,
    ShapleyRanking,
    StratifiedValues,
)
from layershap.calibration import mixed_texts
from layershap.datasets import load_evaluation_text
from layershap.escaping import html_text, markdown_text
from layershap.exceptions import SurrogateQualityWarning, ValueQualityWarning
from layershap.tables import format_cell, megabytes
from layershap.targets import parse_target


def test_a_score_is_told_as_a_perplexity_too(gpt2_report, fitted_gpt2):
    """The same percent in the text, the page and the card as in the curve; 100 (1 / score - 1)."""
    removals = gpt2_report.tables()["removals"].to_frame()
    scores = fitted_gpt2.removal_scores_
    np.testing.assert_allclose(removals["% higher perplexity"], 100 * (1 / scores - 1), rtol=1e-12)
    increases = [point.perplexity_increase for point in fitted_gpt2.removal_curve_.points[1:]]
    assert removals["% higher perplexity"].tolist() == increases
    assert "% higher perplexity: what the score says" in str(gpt2_report)
    assert "% higher perplexity: what the score says" in gpt2_report.to_html()
    assert (
        f"perplexity {increases[3]:+.3g}% on the calibration text" in gpt2_report.to_model_card(4, name="minus-4").text
    )


def test_other_scores_are_told_as_no_perplexity(gpt2_report):
    other = dataclasses.replace(
        gpt2_report, fit=dataclasses.replace(gpt2_report.fit, utility="KLDivergence"), outcomes=()
    )
    assert "perplexity" not in str(other)
    assert "perplexity" not in other.to_model_card(4, name="minus-4").text


def test_sizes_are_in_the_megabytes_of_targets(gpt2_report, fitted_gpt2, gpt2):
    """A target in MB can be seen to be met in every place that shows a size."""
    limit = parse_target("bytes<=13MB").n_bytes
    choice = fitted_gpt2.choose_n_remove(gpt2[0], "bytes<=13MB")
    n_remove = choice.n_remove
    left = gpt2_report.tables()["removals"].to_frame()["MB left"]
    assert 1e6 * left[n_remove - 1] <= limit < 1e6 * left[n_remove - 2]
    assert 1e6 * left[n_remove - 1] == gpt2_report.removal(n_remove).n_bytes
    text = megabytes(gpt2_report.removal(n_remove).n_bytes)
    assert text == "12.7 MB"
    assert f"{text} are left" in str(choice)
    assert f"{text} of 17.6 MB are left" in gpt2_report.to_model_card(n_remove, name="small").text
    assert fitted_gpt2.removal_curve_.table().to_frame()["MB"][n_remove] == pytest.approx(12.68352)
    assert gpt2_report.tables()["outcome_1"].rows[2][:3] == ("MB", 17.632, 12.68352)
    page = re.sub(r"base64,[^\"]*", "", gpt2_report.to_html())
    for shown in (str(gpt2_report), page, str(fitted_gpt2.removal_curve_), str(fitted_gpt2.inspection_)):
        assert "MB" in shown
        assert "MiB" not in shown


def test_the_page_and_the_card_name_the_model(gpt2_report):
    assert gpt2_report.fit.model_name == "tiny_gpt2"
    assert "<title>Layer pruning of tiny_gpt2 (GPT2LMHeadModel)</title>" in gpt2_report.to_html()
    assert "tiny_gpt2 without 4 of its 12 layers" in gpt2_report.to_model_card(4, name="small").text
    nameless = dataclasses.replace(gpt2_report, fit=dataclasses.replace(gpt2_report.fit, model_name=""))
    assert "<title>Layer pruning of GPT2LMHeadModel</title>" in nameless.to_html()
    assert "a GPT2LMHeadModel without 4" in nameless.to_model_card(4, name="small").text


def test_a_mixture_is_told_by_kinds_and_counts(gpt2):
    """Of kinds made apart no nested provenance, which would fill half a page."""
    model, tokenizer = gpt2
    parts = {
        name: Calibration.from_texts(load_evaluation_text(), tokenizer, seq_len=16, n_sequences=n)
        for name, n in (("sea", 6), ("land", 3))
    }
    mixture = mixed_texts(parts, None, weights={"sea": 2, "land": 1}, n_sequences=9)
    report = LayerPruner(n_masks=20, max_remove=1, random_state=0).fit(model, mixture).report_
    for shown in (str(report.tables()["summary"]), report.to_model_card(1, name="small").text):
        assert "6 sequences of sea (90 tokens scored) and 3 sequences of land (45 tokens scored)" in shown
        assert "{" not in shown.split("## Values")[0]


def test_the_card_speaks_of_no_table_that_it_lacks(gpt2_report):
    card = gpt2_report.to_model_card(4, name="small").text
    assert "Removals" not in card
    assert "-&gt;" not in card
    assert markdown_text("3.1 -> 2.9 <b>") == "3.1 -> 2.9 &lt;b&gt;"


def test_masks_are_counted_as_they_are_asked_for(gpt2, gpt2_calibration):
    """The whole model and the empty one come on top; they are in `n_evaluated` only."""
    pruner = LayerPruner(n_masks=40, selector=ShapleyRanking(), random_state=0).fit(gpt2[0], gpt2_calibration)
    cost = pruner.report_.cost
    assert 40 >= cost.n_masks == cost.n_for_values
    assert cost.n_evaluated == pruner.diagnostics_["n_evaluated"] == cost.n_masks + 2
    assert f"{cost.n_masks} masks beside the whole and the empty model" in str(pruner.report_)


@pytest.fixture(scope="module")
def doubted(gpt2, gpt2_calibration):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pruner = LayerPruner(n_masks=16, max_remove=1, random_state=0).fit(gpt2[0], gpt2_calibration)
    categories = (SurrogateQualityWarning, ValueQualityWarning)
    return pruner, [str(warning.message) for warning in caught if issubclass(warning.category, categories)]


def test_what_a_fit_warned_of_is_in_text_page_card_and_file(doubted, tmp_path):
    pruner, warned = doubted
    report = pruner.report_
    assert len(warned) == 3
    assert list(report.doubts) == pruner.diagnostics_["doubts"] == warned
    page, card = report.to_html(), report.to_model_card(1, name="small").text
    for sentence in warned:
        assert sentence in str(report)
        assert page.count(html_text(sentence)) == 2  # at the head, and in the summary
        assert f"- {markdown_text(sentence)}" in card
    path = report.save(tmp_path / "report.json")
    assert PruningReport.load(path).doubts == report.doubts
    # A report of format 3 knew neither.
    content = json.loads(path.read_text())
    content["layershap_report"] = 3
    del content["doubts"], content["fit"]["model_name"]
    path.write_text(json.dumps(content))
    former = PruningReport.load(path)
    assert (former.doubts, former.fit.model_name) == ((), "")
    assert former == dataclasses.replace(report, doubts=(), fit=dataclasses.replace(report.fit, model_name=""))


def test_doubts_recommend_nothing_that_is_in_use(doubted, gpt2, gpt2_calibration):
    _, warned = doubted
    veto, values, surrogate = warned
    assert veto.startswith("the values of the veto players [0] are unknown")
    assert "neighbours" not in values
    assert "HammingProcess" not in surrogate
    assert all("n_masks" in sentence for sentence in warned)
    assert "of 11 layers (of the model's 12, all masks keep the veto players, 1, and protected ones, 0)" in values
    with pytest.warns(SurrogateQualityWarning, match=r"or use another surrogate \(HammingProcess, the default"):
        LayerPruner(
            n_masks=16, max_remove=1, surrogate=LinearRegression(), values=StratifiedValues(n_marginals=50)
        ).fit(gpt2[0], gpt2_calibration)


def test_a_value_that_is_not_known_is_explained(doubted, gpt2_report):
    """A veto player of which no mask could be drawn."""
    pruner, _ = doubted
    (veto,) = pruner.veto_players_
    assert np.flatnonzero(np.isnan(pruner.contributions_)).tolist() == [veto]
    table = pruner.report_.tables()["layers"]
    assert table.rows[veto][-1] == "veto player, value unknown"
    assert format_cell(table.rows[veto][1]) == "-"
    assert "value unknown: too few masks were drawn for it" in table.note
    assert "value unknown" not in str(gpt2_report.tables()["layers"])


def test_all_tables_in_markdown(gpt2_report):
    text = gpt2_report.to_markdown()
    tables = gpt2_report.tables()
    assert list(tables) == ["summary", "layers", "removals", "outcome_1", "speed_1"]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [markdown_text(table.title) for table in tables.values()]
    assert all(table.to_markdown() in text for table in tables.values())


def test_the_curve_says_that_masked_models_are_scored(fitted_gpt2):
    assert fitted_gpt2.removal_curve_.table().title.endswith("scored by masked models on the calibration text")

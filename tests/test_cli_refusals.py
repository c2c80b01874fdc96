"""The command line loses nothing: what exists stays unless told otherwise, and what can't end well doesn't begin."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from layershap import PruningReport
from layershap.cli import main
from layershap.cli.report import PICTURES

from .helpers.commands import TOKENIZER, copy_of_the_model, files, fit_again, measure, prune, refusal
from .helpers.models import STORIES


@pytest.mark.parametrize("seed", [0, 1])
def test_a_finished_fit_keeps_its_report_and_what_was_measured(run_folder, story_file, seed, tmp_path, capsys):
    assert prune(tmp_path / "small", "--report", run_folder / "report.json", "--n-remove", 1) == 0
    assert measure(run_folder, STORIES, tmp_path / "small", "--no-speed") == 0
    before = files(run_folder)
    assert fit_again(run_folder, story_file, "--seed", seed) == 1
    assert "report.json exists: name another file, or give --overwrite" in refusal(capsys)
    assert files(run_folder) == before
    assert len(PruningReport.load(run_folder / "report.json").outcomes) == 1

    assert fit_again(run_folder, story_file, "--seed", seed, "--overwrite") == 0
    report = PruningReport.load(run_folder / "report.json")
    assert report.outcomes == ()
    assert report.fit.settings["random_state"] == str(seed)
    assert (run_folder / "ledger.jsonl").read_bytes().startswith(before["ledger.jsonl"]), "masks that were paid for"


def test_an_interrupted_fit_has_no_report_and_goes_on(run_folder, story_file):
    (run_folder / "report.json").unlink()
    assert fit_again(run_folder, story_file) == 0
    assert PruningReport.load(run_folder / "report.json").cost.n_evaluated == 0


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
@pytest.mark.parametrize("way", ["same", "link", "dots"])
def test_a_model_is_never_pruned_onto_itself(tmp_path, way, overwrite, capsys):
    model = copy_of_the_model(tmp_path / "model")
    before = files(model)
    (tmp_path / "link").symlink_to(model)
    out = {"same": model, "link": tmp_path / "link", "dots": model / ".." / "model"}[way]
    assert main(["prune", str(model), "--remove", "1", "--out", str(out), *overwrite]) == 1
    assert "must be another folder than the model's" in refusal(capsys)
    assert files(model) == before


def test_a_used_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path, capsys):
    """A recipe that stays would have another model loaded than the one saved last."""
    out = tmp_path / "out"
    assert prune(out, "--remove", 1) == 0
    (out / "layershap_recipe.json").write_text("{}")
    (out / "README.md").write_text("of another model")
    before = files(out)
    assert prune(out, "--remove", 3) == 1
    assert "must be a new or empty folder, it holds README.md" in refusal(capsys)
    assert files(out) == before
    assert prune(out, "--remove", 9, "--overwrite") == 1, "a layer that there is not"
    assert files(out) == before

    assert prune(out, "--remove", 3, "--overwrite") == 0
    assert prune(tmp_path / "fresh", "--remove", 3) == 0
    assert files(out) == files(tmp_path / "fresh")


@pytest.mark.parametrize("name", ["thesis.tex", "report.json", ".git/config"])
def test_overwrite_replaces_a_checkpoint_and_nothing_else(tmp_path, name, capsys):
    out = tmp_path / "out"
    assert prune(out, "--remove", 1) == 0
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("years of work")
    before = files(out)
    assert prune(out, "--remove", 3, "--overwrite") == 1
    assert f"holds what is no part of one: {name.partition('/')[0]}" in refusal(capsys)
    assert files(out) == before


def test_an_interrupted_save_leaves_no_mixture(tmp_path, monkeypatch):
    """The tokenizer fails after the model was written: the old checkpoint is whole, and a new folder is gone."""
    from transformers import PreTrainedTokenizerBase

    out = tmp_path / "out"
    assert prune(out, "--remove", 1) == 0
    before = files(out)

    def full(self, *_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", full)
    assert prune(out, "--remove", 3, "--overwrite") == 1
    assert files(out) == before
    assert prune(tmp_path / "new", "--remove", 3) == 1
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    (out / ".layershap-partial-killed").mkdir()
    assert prune(out, "--remove", 3, "--overwrite") == 0
    assert not list(out.glob(".layershap*"))


def test_prune_counts_layers_from_the_end_and_says_which(tmp_path, capsys):
    assert prune(tmp_path / "out", "--remove", -1, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["removed"] == [4]


def test_prune_takes_a_fraction_of_the_layers(run_folder, tmp_path, capsys):
    report = PruningReport.load(run_folder / "report.json")
    arguments = ["--report", run_folder / "report.json", "--format", "json"]
    for fraction, count in (("0.4", 2), (".1", 1), ("0.59", 2)):
        assert prune(tmp_path / fraction, *arguments, "--n-remove", fraction) == 0
        assert json.loads(capsys.readouterr().out)["removed"] == list(report.removal(count).layers)
        assert report.removal(float(fraction)) is report.removal(count)
        assert (tmp_path / fraction / "README.md").is_file()
    with pytest.raises(ValueError, match=r"n_remove must be one of \[1, .*; got 1\.5"):
        report.removal(1.5)


def test_a_report_takes_its_own_models_only(run_folder, tmp_path, capsys):
    before = files(run_folder)
    assert prune(tmp_path / "small", "--report", run_folder / "report.json", "--n-remove", 2) == 0
    assert measure(run_folder, "bundled", tmp_path / "small", "--no-speed") == 1
    assert "must be the model that was fitted (LlamaForCausalLM of 5 layers" in refusal(capsys)

    other = AutoModelForCausalLM.from_pretrained(STORIES)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    for name in TOKENIZER:
        (tmp_path / "other" / name).write_bytes((STORIES / name).read_bytes())
    assert measure(run_folder, tmp_path / "other", tmp_path / "small", "--no-speed") == 1
    assert "its weights are others" in refusal(capsys)

    chosen = PruningReport.load(run_folder / "report.json").removal(2).layers
    stranger = next([a, b] for a in range(5) for b in range(a) if (b, a) != chosen)
    assert prune(tmp_path / "stranger", "--remove", *stranger) == 0
    capsys.readouterr()
    assert measure(run_folder, STORIES, tmp_path / "stranger", "--no-speed") == 1
    assert "pruned must be one of the report's removals" in refusal(capsys)
    assert files(run_folder) == before


def test_pages_cards_and_pictures_are_not_replaced_unasked(run_folder, tmp_path, capsys):
    pictures_folder = tmp_path / "pictures"
    pictures_folder.mkdir()
    (pictures_folder / "depth.png").write_bytes(b"mine")
    (tmp_path / "index.html").write_text("mine")
    report = run_folder / "report.json"
    before = report.read_bytes()
    for option in ("--html", "--card"):
        assert main(["report", str(report), option, str(run_folder / "." / "report.json"), "--overwrite"]) == 1
        assert "must be another file than the report itself" in refusal(capsys)
    assert report.read_bytes() == before
    for option, target in (("--html", tmp_path / "index.html"), ("--pictures", pictures_folder)):
        assert main(["report", str(run_folder / "report.json"), option, str(target)]) == 1
        assert "give --overwrite to replace it" in refusal(capsys)
    assert list(files(pictures_folder).values()) == [b"mine"]
    arguments = ["report", run_folder / "report.json", "--pictures", pictures_folder, "--html", tmp_path / "index.html"]
    assert main([*map(str, arguments), "--overwrite"]) == 0
    assert sorted(path.stem for path in pictures_folder.iterdir()) == sorted(PICTURES)


def test_a_card_without_text_measured(run_folder, tmp_path):
    assert prune(tmp_path / "small", "--report", run_folder / "report.json", "--n-remove", 1) == 0
    card = tmp_path / "card" / "README.md"
    assert measure(run_folder, STORIES, tmp_path / "small", "--no-speed", "--card", card) == 0
    assert "# small" in card.read_text()
    assert "## Before and after" in card.read_text()


def test_pictures_without_matplotlib_are_refused_before_anything_is_measured(run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for arguments in (
        ["report", run_folder / "report.json", "--pictures", tmp_path / "p", "--model", "no/model", "--pruned", "none"],
        ["baselines", "no/model", "--n-remove", 1, "--text", "x", "--eval-text", "x", "--picture", tmp_path / "x.png"],
    ):
        assert main(list(map(str, arguments))) == 1
        assert "needs matplotlib, which is not installed: pip install 'layershap[plot]'" in refusal(capsys)
    assert main(["report", str(run_folder / "report.json"), "--html", str(tmp_path / "page.html")]) == 0
    assert "the page has no pictures: pip install 'layershap[plot]'" in capsys.readouterr().err

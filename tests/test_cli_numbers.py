"""Numbers that don't suit the model are refused before weights are read, in the words of the command line."""

from __future__ import annotations

import argparse

import pytest

from layershap import LayerPruner
from layershap.cli import main
from layershap.cli.arguments import in_options
from layershap.fitting.masks import least_masks
from layershap.selection import SurrogateSearch

from .helpers.commands import measure, prune, refusal
from .helpers.models import STORIES

LEAST = least_masks(SurrogateSearch(), 5, 3)


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text("Once upon a time\n", encoding="utf-8")
    return tmp_path / "prompts.txt"


def fit(model, data, *options):
    arguments = ["fit", model, "--own-answers", data, "--out", data.parent / "run", *options]
    return main([str(argument) for argument in arguments])


REFUSED = [
    (
        ["--max-remove", 3, "--n-masks", LEAST - 1],
        f"--n-masks must be at least {LEAST} to choose up to 3 of 5 rem",
    ),
    (["--max-remove", 3, "--n-masks", LEAST - 1], f"got {LEAST - 1}. Raise it, or leave it out"),
    (["--n-masks", 5, "--method", "paper"], "--n-masks must be at least 6 to choose up to"),
    (["--max-remove", 40], "--max-remove must be an int in [1, 4] (5 of 5 layers are removable), got 40"),
    (["--max-remove", 4, "--protect", 0, 1], "--max-remove must be an int in [1, 3] (3 of 5 layers are removable)"),
    (["--protect", 44], "--protect: layer indices must lie in [0, 5)"),
    (["--max-remove", 9, "--granularity", "sublayer", "--n-masks", 10], "of 10 removable sublayers, got 10"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_by_the_config_before_weights_are_read(options, message, prompts, monkeypatch, capsys):
    monkeypatch.setattr("layershap.cli.fit.load_model", lambda *_: pytest.fail("loaded"))
    assert fit(STORIES, prompts, *options) == 1
    said = refusal(capsys)
    assert message in said
    assert "ShapleyRanking" not in said
    assert not (prompts.parent / "run").exists()


@pytest.mark.parametrize("reason", ["bundled", "no skeleton"])
def test_or_before_the_model_answers_prompts(reason, prompts, monkeypatch, capsys):
    """The bundled model has no config to ask; nor has one that can't be built without its weights."""

    def fails(_):
        raise NotImplementedError("no such operation on the meta device")

    monkeypatch.setattr("layershap.calibration.own_answers", lambda *_, **__: pytest.fail("answered"))
    if reason != "bundled":
        monkeypatch.setattr("layershap.cli.fit.skeleton", fails)
    assert fit("bundled" if reason == "bundled" else STORIES, prompts, "--max-remove", 2, "--n-masks", 3) == 1
    assert "--n-masks must be at least" in refusal(capsys)


def test_the_least_that_is_named_is_enough(stories):
    """What the command line asks for is what `fit` asks for."""
    model, tokenizer = stories
    text = ["Once upon a time there was a little girl who liked to play outside. " * 20]
    LayerPruner(n_masks=LEAST, max_remove=3).estimate_cost(model, text, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=f"The minimum is {LEAST}, got {LEAST - 1}"):
        LayerPruner(n_masks=LEAST - 1, max_remove=3).estimate_cost(model, text, tokenizer=tokenizer)


def test_messages_of_the_library_name_options(run_folder, story_file, tmp_path, capsys):
    run = ["--text", story_file, "--out", tmp_path / "other-run"]
    assert main([str(each) for each in ["fit", STORIES, *run, "--n-sequences", 4000]]) == 1
    assert "Give more text, or lower --n-sequences or --seq-len." in refusal(capsys)
    assert main([str(each) for each in ["fit", STORIES, *run, "--layers", "nowhere"]]) == 1
    assert "--layers 'nowhere' is not a module of" in refusal(capsys)
    assert prune(tmp_path / "small", "--report", run_folder / "report.json", "--target", "bytes<=9B") == 1
    assert "the nearest is --n-remove " in (said := refusal(capsys))
    assert "fit with a larger --max-remove" in said
    assert prune(tmp_path / "other", "--remove", 0) == 0
    capsys.readouterr()
    assert measure(run_folder, STORIES, tmp_path / "other") == 1
    assert "on the command line by `layershap evaluate`" in refusal(capsys)


def test_paths_and_words_stay_as_they_are():
    parser = argparse.ArgumentParser()
    parser.add_argument("--n-masks")
    parser.add_argument("--text")
    others = "runs/n_masks.txt and 'n_masks' and x.n_masks and max_n_masks"
    assert in_options(f"{others}: n_masks, or n_masks=3.", [parser]) == f"{others}: --n-masks, or --n-masks 3."
    assert in_options("The text is none: text='a'", [parser]) == "The text is none: --text 'a'"

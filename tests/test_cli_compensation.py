"""`layershap prune --compensation`: what it asks for, does and says."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from layershap import Calibration, LinearRefit, PruningReport, Rescale, remove_layers
from layershap.cli import main
from layershap.compensation import ReplaceMe, compensation_of, compensation_record
from layershap.datasets import load_calibration_text

from .helpers.commands import measure, prune, refusal
from .helpers.models import STORIES

CUT = ("--seq-len", "64", "--n-sequences", "24")


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(load_calibration_text()[0], encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "compensation"),
    [
        ("rescale", Rescale()),
        ("linear-refit", LinearRefit()),
        ("linear-refit-all", LinearRefit("all")),
        ("replace-me", ReplaceMe()),
    ],
)
def test_it_is_the_librarys_and_says_what_it_did(name, compensation, gpt2, text_file, tmp_path, capsys):
    model, tokenizer = gpt2
    text = Calibration.from_texts(load_calibration_text()[:1], tokenizer, seq_len=64, n_sequences=24)
    expected = remove_layers(model, [3, 6], compensation=compensation, calibration=text)
    record = compensation_record(expected)
    options = ["--remove", "3", "6", "--compensation", name, "--text", str(text_file), *CUT]
    assert main(["prune", "bundled", "--out", str(tmp_path / "small"), *options, "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)["compensation"]
    assert data["method"] == type(compensation).__name__
    assert (data["loss_before"], data["loss_after"]) == (record.loss_before, record.loss_after)
    assert len(data["changes"]) == len(record.changes)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert compensation_of(loaded) == (record.method if record.changes else None)


def test_the_answer_and_the_card_tell_of_it(run_folder, story_file, tmp_path, capsys):
    by_report = ["--report", run_folder / "report.json", "--n-remove", 1]
    options = ["--compensation", "linear-refit", "--text", story_file, "--seq-len", 32]
    assert prune(tmp_path / "small", *by_report, *options) == 0
    answer = capsys.readouterr().out
    assert "LinearRefit" in answer
    assert "nats per token" in answer or "found no change" in answer
    card = (tmp_path / "small" / "README.md").read_text(encoding="utf-8")
    assert answer.splitlines()[1] in card
    assert "left the other layers' weights unchanged" not in card
    assert measure(run_folder, STORIES, tmp_path / "small", "--no-speed") == 0
    (outcome,) = PruningReport.load(run_folder / "report.json").outcomes
    assert outcome.compensation.method == "LinearRefit"
    # The same removal without it: no figure of the compensated model gets into its card.
    assert prune(tmp_path / "plain", *by_report) == 0
    card = (tmp_path / "plain" / "README.md").read_text(encoding="utf-8")
    assert "left the other layers' weights unchanged" in card
    assert "Before and after" not in card


def test_without_a_compensation_the_answer_has_none(tmp_path, capsys):
    assert prune(tmp_path / "out", "--remove", 1, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["compensation"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--compensation", "rescale"], "is measured on calibration data: give --text, --chats or --own-answers"),
        (["--compensation", "rescale", "--seq-len", "9"], "give --text, --chats or --own-answers"),
        (["--text", "t"], "--text can't be given without --compensation"),
        (
            ["--own-answers", "t", "--seq-len", "64"],
            "--own-answers and --seq-len can't be given without --c",
        ),
        (["--seq-len", "64"], "give --compensation linear-refit or linear-refit-all or replace-me or rescale"),
        (["--compensation", "rescale", "--chats", "c", "--bos", "text"], "--bos can't be given with --chats"),
        (["--compensation", "rescale", "--chats", "c", "--text", "t"], "not allowed with argument --chats"),
        (["--compensation", "train", "--text", "t"], "invalid choice: 'train'"),
    ],
)
def test_options_that_do_not_go_together(options, message, tmp_path, capsys):
    try:
        code = prune(tmp_path / "out", "--remove", 1, *options)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in refusal(capsys)


def test_what_can_not_be_done_is_refused_and_writes_nothing(run_folder, story_file, tmp_path, capsys):
    rescale = ["--compensation", "rescale", "--remove", 1]
    assert prune(tmp_path / "out", *rescale, "--text", tmp_path / "nowhere.txt") == 1
    assert "nowhere.txt" in refusal(capsys)
    assert prune(tmp_path / "out", *rescale, "--text", story_file, "--n-sequences", 1) == 1
    assert "needs two at least; got 1" in refusal(capsys)
    assert not (tmp_path / "out").exists()

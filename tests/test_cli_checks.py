"""The command line checks before it works: usage, files, devices, tasks and models; and it starts quickly."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import layershap
from layershap import PERPLEXITY_PROTOCOLS, PruningReport
from layershap.cli import main
from layershap.cli.baselines import METHODS, method
from layershap.cli.files import read_prompts, read_texts
from layershap.cli.inputs import PROTOCOLS
from layershap.cli.main import build_parser
from layershap.cli.report import PICTURES
from layershap.report.page import pictures

from .helpers.commands import copy_of_the_model, measure, prune, refusal
from .helpers.models import STORIES

USAGE = [
    (["prune", "M", "--out", "o"], "either by --report and --n-remove, or --target in its place, or by --remove"),
    (["prune", "M", "--out", "o", "--report", "r"], "either by --report and --n-remove"),
    (["prune", "M", "--out", "o", "--report", "r", "--remove", "1"], "either by --report and --n-remove"),
    (["prune", "M", "--out", "o", "--n-remove", "1", "--remove", "1"], "either by --report and --n-remove"),
    (["prune", "M", "--out", "", "--remove", "1"], "a path must not be empty"),
    (["prune", "M", "--out", "o", "--report", "r", "--n-remove", "1", "--target", "bytes<=1MB"], "or --target in its"),
    (["prune", "M", "--out", "o", "--target", "bytes<=1MB"], "either by --report and --n-remove, or --target"),
    (["prune", "M", "--out", "o", "--target", "bytes<=1MB", "--remove", "1"], "or --target in its place"),
    (["prune", "M", "--out", "o", "--report", "r", "--target", "nonsense"], "--target: a target must read like one of"),
    (["prune", "M", "--out", "o", "--report", "r", "--target", "bytes<=1miles"], "--target: the unit of bytes must be"),
    (["prune", "M", "--out", "o", "--report", "r", "--target", "bytes<=-1MB"], "n_bytes must be positive and finite"),
    (["prune", "M", "--out", "o", "--report", "r", "--n-remove", "0"], "must be at least 1, got 0"),
    (["prune", "M", "--out", "o", "--report", "r", "--n-remove", "1.5"], "or a fraction in (0, 1), got '1.5'"),
    (["prune", "M", "--out", "o", "--report", "r", "--n-remove", "2.0"], "or a fraction in (0, 1), got '2.0'"),
    (["prune", "M", "--out", "o", "--report", "r", "--n-remove", "-2"], "or a fraction in (0, 1), got '-2'"),
    (["prune", "M", "--out", "o", "--report", "r", "--n-remove", "many"], "or a fraction in (0, 1), got 'many'"),
    (["fit", "M", "--text", "t", "--out", " "], "a path must not be empty"),
    (["fit", "M", "--text", "", "--out", "o"], "a path must not be empty"),
    (["fit", "M", "--text", "t", "--out", "o", "--n-masks", "0"], "must be at least 1"),
    (["fit", "M", "--text", "t", "--out", "o", "--seed", "-1"], "must be at least 0"),
    (["fit", "M", "--text", "t", "--out", "o", "--seq-len", "1.5"], "must be an integer, got '1.5'"),
    (["fit", "M", "--out", "o"], "one of the arguments --text --chats --own-answers is required"),
    (["fit", "M", "--out", "o", "--text", "t", "--chats", "c"], "not allowed with argument --text"),
    (
        ["fit", "M", "--out", "o", "--chats", "c", "--bos", "text"],
        "--bos can't be given with --chats, which takes --n-",
    ),
    (["fit", "M", "--out", "o", "--text", "t", "--answer-tokens", "9"], "--answer-tokens can't be given with --text"),
    (
        ["fit", "M", "--out", "o", "--own-answers", "p", "--seq-len", "9", "--bos", "text"],
        "--seq-len and --bos can't be given with --own-answers, which takes --answer-tokens, --n-sequences",
    ),
    (
        ["baselines", "M", "--chats", "c", "--eval-text", "t", "--n-remove", "1", "--bos", "text"],
        "--bos can't be given with --chats",
    ),
    (
        ["prune", "M", "--out", "o", "--report", "r", "--target", "bytes<=1MB", "--target", "perplexity<=+5%"],
        "argument --target: given twice: one target is possible. Choose N from the report's removals",
    ),
    (["fit", "M", "--out", "o", "--text", "a", "--text", "b"], "argument --text: given twice: name all values after"),
    (["evaluate", "M"], "nothing to evaluate"),
    (["evaluate", "M", "--tasks", "x.jsonl", "--limit", "0"], "must be at least 1, got 0"),
    (["evaluate", "M", "--tasks", "x.jsonl", "--limit", "-1"], "must be at least 1, got -1"),
    (["evaluate", "bundled", "--text", "TEXT", "--device", "tpu"], "--device must be a torch device"),
    (["evaluate", "bundled", "--text", "TEXT", "--device", ""], "--device must be a torch device"),
    (["evaluate", "bundled", "--text", "TEXT", "--device", "meta"], "a device that holds weights"),
    (["evaluate", "M", "--text", "TEXT", "--device", "cpu", "--device-map", "auto"], "either --device"),
    (["report", "r", "--model", "M"], "give both --model and --pruned"),
    (["report", "r", "--text", "t"], "say what to measure: give --model and --pruned too"),
    (["report", "r", "--generation", "t"], "say what to measure: give --model and --pruned too"),
    (["report", "r", "--no-speed"], "say what to measure: give --model and --pruned too"),
    (["report", ""], "a path must not be empty"),
    (["report", "r", "--html", "x", "--card", "x"], "must be different files, got x for both"),
    (
        ["baselines", "M", "--text", "t", "--eval-text", "t", "--n-remove", "1", "--picture", "x.doc"],
        "must name a .png file",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE)
def test_wrong_usage_exits_2_with_a_line(arguments, message, story_file, capsys):
    arguments = [str(story_file) if argument == "TEXT" else argument for argument in arguments]
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.splitlines()[-1]


def options_with_values():
    for name, command in subcommands().items():
        for action in command._actions:
            if action.option_strings and action.nargs != 0:
                yield name, action


def subcommands():
    (found,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return found.choices


def test_no_option_of_any_command_takes_the_last_of_two_values(capsys):
    several = list(options_with_values())
    assert len(several) > 60
    for name, action in several:
        option = action.option_strings[-1]
        value = str(next(iter(action.choices))) if action.choices else "0.5" if option == "--n-remove" else "7"
        if name != "prune" and option == "--n-remove":
            value = "7"
        with pytest.raises(SystemExit) as stop:
            main([name, option, value, option, value])
        assert stop.value.code == 2
        assert f"argument {option}: given twice: " in refusal(capsys), (name, option)


def test_a_parser_reads_several_command_lines():
    parser = build_parser()
    for _ in range(2):
        assert parser.parse_args(["fit", "M", "--text", "a", "b", "--out", "o"]).text == [Path("a"), Path("b")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(story_file, capsys):
    for device in ("cuda", "cuda:1"):
        assert main(["evaluate", "bundled", "--text", str(story_file), "--device", device]) == 1
        assert f"--device {device} can't be used by torch {torch.__version__} here: " in refusal(capsys)


def test_what_can_not_be_written_is_found_out_before_work(run_folder, story_file, tmp_path, capsys):
    """The model named isn't there: that it goes unmentioned shows that the check came first."""
    file = tmp_path / "file"
    file.write_text("mine")
    held_out = ["--text", story_file, "--eval-text", story_file, "--n-remove", 1]
    for arguments in (
        ["fit", "no/model", "--text", story_file, "--out", file],
        ["prune", "no/model", "--remove", 1, "--out", file],
        ["prune", "no/model", "--remove", 1, "--out", file / "below"],
        ["baselines", "no/model", *held_out, "--picture", file / "x.png"],
        ["report", run_folder / "report.json", "--model", "no/model", "--pruned", "none", "--html", file / "x.html"],
        ["report", run_folder / "report.json", "--model", "no/model", "--pruned", "none", "--pictures", file],
    ):
        assert main(list(map(str, arguments))) == 1
        message = refusal(capsys)
        assert str(file) in message
        assert "no/model" not in message
    assert file.read_text() == "mine"
    assert main(["report", str(run_folder / "report.json"), "--html", str(tmp_path)]) == 1
    assert "must be a file to write, it is a folder" in refusal(capsys)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"[1, 2", "a.json must be JSON: Expecting"),
        (
            "a.json",
            b'{"text": "x"}',
            "a.json must hold a list with a text, prompt or chat an item, it holds an object with ['text']",
        ),
        ("a.json", b'["x", 4]', "a.json, row 2 must be a string, or an object with a string under 'text', it is 4"),
        ("a.json", b"[" * 100_000, "a.json must be JSON: "),
        ("a.jsonl", b'"x"\n{"text": "y"}\n{"txt": "z"}\n', "a.jsonl, line 3 must be a string, or an object"),
        ("a.jsonl", b'"x"\n\n{"text": \n', "a.jsonl, line 3 must be JSON"),
        ("a.txt", b"\x80\x81\xff", "a.txt must be text in UTF-8"),
        ("a.bin", bytes(range(256)), "a.bin must be text in UTF-8"),
        ("a.txt", b" \n\t", "a.txt must hold text, it is blank"),
    ],
)
def test_text_that_can_not_be_read_names_file_and_row(name, content, message, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    assert main(["evaluate", "bundled", "--text", str(tmp_path / name)]) == 1
    assert message in refusal(capsys)


def test_text_files_of_every_kind(tmp_path):
    (tmp_path / "a.jsonl").write_text('"one"\r\n{"text": "two\u2028parts", "id": 2}\n', encoding="utf-8")
    (tmp_path / "a.json").write_text('\ufeff["three", {"text": ""}]', encoding="utf-8")
    (tmp_path / "a.txt").write_text("four\nfive", encoding="utf-8")
    texts = read_texts([tmp_path / name for name in ("a.jsonl", "a.json", "a.txt")])
    assert texts == ["one", "two\u2028parts", "three", "", "four\nfive"]
    assert read_prompts(tmp_path / "a.txt") == ["four", "five"]
    assert read_prompts(tmp_path / "a.jsonl") == ["one", {"text": "two\u2028parts", "id": 2}]


def test_unknown_tasks_are_found_out_before_a_model_is_loaded(tmp_path, capsys):
    for task, message in (
        ("hellaswagg", "knows none of this name. Similar: hellaswag"),
        (str(tmp_path / "none.jsonl"), "none.jsonl"),
        (str(tmp_path / "none.yaml"), "none.yaml"),
    ):
        assert main(["evaluate", "no/model", "--tasks", task]) == 1
        assert message in refusal(capsys)


def test_all_models_are_looked_for_before_one_is_evaluated(story_file, monkeypatch, capsys):
    monkeypatch.setattr("layershap.cli.evaluate.load_model", lambda *_: pytest.fail("loaded"))
    assert main(["evaluate", "bundled", "no/such/folder", "--text", str(story_file)]) == 1
    assert "no/such/folder" in refusal(capsys)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("./smal", "there is no such folder"),
        ("../smal", "there is no such folder"),
        ("~/smal", "there is no such folder"),
        ("/nowhere/smal", "there is no such folder"),
        ("models/of/mine", "there is no such folder"),
        ("smal/", "there is no such folder"),
        ("runs/smal", "there is no such folder in runs (for a model of this owner on the Hub, run this elsewhere)"),
        ("runs/model.safetensors", "it is a file: give the folder it is in"),
    ],
)
def test_the_hub_is_not_asked_for_what_is_a_path(source, reason, story_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda *_: pytest.fail("the Hub was asked"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "model.safetensors").write_bytes(b"")
    for command in (
        ["evaluate", source, "--text", story_file],
        ["fit", source, "--text", story_file, "--out", "run"],
        ["prune", source, "--remove", 1, "--out", "out"],
        ["baselines", source, "--text", story_file, "--eval-text", story_file, "--n-remove", 1],
    ):
        assert main(list(map(str, command))) == 1
        assert f"{source} must be a folder with a checkpoint" in (message := refusal(capsys))
        assert reason in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_both_models_of_a_report_are_looked_for_before_one_is_loaded(run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("layershap.cli.report.load_model", lambda *_: pytest.fail("loaded"))
    assert measure(run_folder, STORIES, tmp_path / "smal") == 1
    assert "there is no such folder" in refusal(capsys)


def test_a_folder_for_a_report_and_damaged_weights(run_folder, tmp_path, capsys):
    assert prune(tmp_path / "out", "--report", run_folder, "--n-remove", 1) == 1
    assert "it is a folder: give the .json file in it" in refusal(capsys)
    broken = copy_of_the_model(tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert main(["prune", str(broken), "--remove", "1", "--out", str(tmp_path / "out")]) == 1
    assert f"the weights of {broken} can't be read" in refusal(capsys)


def test_names_known_to_the_options_are_the_librarys(run_folder):
    assert sorted(PERPLEXITY_PROTOCOLS) == list(PROTOCOLS)
    text = ["--text", "t", "--eval-text", "t", "--n-remove", "2"]
    arguments = build_parser().parse_args(["baselines", "M", *text])
    assert len({type(method(name, arguments)).__name__ for name in METHODS}) == len(METHODS) - 1, "one has two criteria"
    assert set(pictures(PruningReport.load(run_folder / "report.json"), dpi=20)) == set(PICTURES)


def test_version_help_and_wrong_usage_wait_for_no_torch():
    code = """
import sys
from layershap.cli import main
for arguments in (["--version"], ["fit", "--help"], ["prune", "--out", ""]):
    try:
        main(arguments)
    except SystemExit as stop:
        print(stop.code)
print(sorted({"torch", "transformers", "sklearn", "numpy"} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = found.stdout.splitlines()
    assert lines[0] == f"layershap {layershap.__version__}"
    assert lines[-2:] == ["2", "[]"]


def test_output_that_nobody_reads_or_that_has_no_character_for_a_name(run_folder, tmp_path):
    command = [sys.executable, "-m", "layershap", "report", str(run_folder / "report.json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    _, stderr = process.communicate(timeout=120)
    assert b"Traceback" not in stderr
    assert process.returncode == 1

    content = json.loads((run_folder / "report.json").read_text())
    content["calibration"]["provenance"]["tokenizer"] = "модель"
    (run_folder / "report.json").write_text(json.dumps(content))
    found = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=True)
    assert rb"tokenizer \u043c\u043e" in found.stdout

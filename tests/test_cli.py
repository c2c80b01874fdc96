"""The command line on stories260K (5 layers): what it writes, prints and returns."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from layershap import Calibration, LayerPruner, PruningReport, evaluate
from layershap.cli import main
from layershap.cli.main import build_parser, help_texts

from .helpers.models import STORIES
from .helpers.texts import STORY

FIT = ("--seq-len", "48", "--n-sequences", "4", "--n-masks", "40")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli")
    (path / "calibration.txt").write_text(STORY * 8, encoding="utf-8")
    rows = [json.dumps({"text": STORY * 3}) for _ in range(4)]
    (path / "held-out.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(folder):
    """A fitted run; the report is read, never changed, by the tests."""
    assert (
        main(["fit", str(STORIES), "--text", str(folder / "calibration.txt"), "--out", str(folder / "run"), *FIT]) == 0
    )
    return folder / "run"


@pytest.fixture(scope="module")
def small(folder, run):
    arguments = ["--report", str(run / "report.json"), "--n-remove", "2", "--out", str(folder / "small")]
    assert main(["prune", str(STORIES), *arguments]) == 0
    return folder / "small"


def read_json(capsys):
    return json.loads(capsys.readouterr().out)


def test_fit_is_the_librarys(run, folder, stories):
    model, tokenizer = stories
    calibration = Calibration.from_texts([STORY * 8], tokenizer, seq_len=48, n_sequences=4)
    pruner = LayerPruner(n_masks=40, random_state=0).fit(model, calibration)
    report = PruningReport.load(run / "report.json")
    assert [layer.contribution for layer in report.layers] == pruner.contributions_.tolist()
    assert [list(r.layers) for r in report.removals] == [pruner.removed_layers(r.n_remove) for r in report.removals]
    assert (run / "ledger.jsonl").exists()


def test_fit_again_evaluates_nothing_and_finds_the_same(run, folder, capsys):
    again = folder / "again"
    shutil.copytree(run, again)
    (again / "report.json").unlink()
    arguments = ["--text", str(folder / "calibration.txt"), "--out", str(again), *FIT, "--format", "json"]
    assert main(["fit", str(STORIES), *arguments]) == 0
    data = read_json(capsys)
    assert data["report"]["cost"]["n_evaluated"] == 0
    first, second = PruningReport.load(run / "report.json"), PruningReport.load(again / "report.json")
    # As text, in which NaN equals NaN.
    assert repr((first.layers, first.removals, first.surrogate)) == repr(
        (second.layers, second.removals, second.surrogate)
    )


def test_estimate_evaluates_nothing(folder, capsys):
    arguments = ["--text", str(folder / "calibration.txt"), "--out", str(folder / "none"), *FIT, "--estimate"]
    assert main(["fit", str(STORIES), *arguments, "--format", "json"]) == 0
    data = read_json(capsys)
    assert data["layer_runs"] <= data["layer_runs_one_by_one"] <= data["layer_runs_zeroed"]
    assert not (folder / "none").exists()


def test_the_papers_recipe_has_a_name_for_each_kind_of_model(folder, capsys):
    text = ["--text", str(folder / "calibration.txt"), "--seq-len", "48", "--n-sequences", "4"]
    arguments = [*text, "--out", str(folder / "none"), "--estimate", "--format", "json"]
    planned = {}
    for method in ("paper", "paper-mamba", "paper-rwkv", "paper-gptq"):
        assert main(["fit", str(STORIES), *arguments, "--method", method]) == 0
        planned[method] = read_json(capsys)["n_masks"] - 1  # the whole model
    assert planned == {"paper": 8_000, "paper-mamba": 10_000, "paper-rwkv": 12_000, "paper-gptq": 8_000}


def test_prune_writes_a_plain_checkpoint_with_a_card(small, run, stories):
    removal = PruningReport.load(run / "report.json").removal(2)
    reloaded = AutoModelForCausalLM.from_pretrained(small)
    assert reloaded.config.num_hidden_layers == 3
    kept = [layer for layer in range(5) if layer not in removal.layers]
    for new, old in enumerate(kept):
        for name, value in reloaded.model.layers[new].named_parameters():
            assert torch.equal(value, stories[0].model.layers[old].get_parameter(name))
    assert (small / "tokenizer.json").exists()
    assert ", ".join(map(str, removal.layers)) in (small / "README.md").read_text()


def test_prune_layers_of_ones_own_choice(folder, capsys):
    assert main(["prune", str(STORIES), "--remove", "3", "1", "--out", str(folder / "own"), "--format", "json"]) == 0
    data = read_json(capsys)
    assert data["removed"] == [1, 3]
    assert data["load_with"] == "transformers.AutoModelForCausalLM.from_pretrained"
    assert data["n_parameters"] < data["n_parameters_before"]


def test_evaluate_is_the_librarys(small, folder, stories, capsys):
    options = ["--text", str(folder / "held-out.jsonl"), "--eval-sequences", "3", "--protocol", "seq128-bos"]
    assert main(["evaluate", str(STORIES), str(small), *options, "--format", "json"]) == 0
    data = read_json(capsys)
    expected = evaluate(*stories, texts=[STORY * 3] * 4, protocol="seq128-bos", n_sequences=3)
    assert data[str(STORIES)] == expected.to_records()
    assert data[str(small)][0]["protocol"] == "seq128-bos"


def test_report_measures_and_writes_page_card_and_pictures(small, run, folder, capsys):
    copy = folder / "measured" / "report.json"
    copy.parent.mkdir()
    shutil.copy(run / "report.json", copy)
    page, card, pictures = (copy.parent / name for name in ("report.html", "README.md", "pictures"))
    measure = ["--model", str(STORIES), "--pruned", str(small), "--text", str(folder / "held-out.jsonl"), "--no-speed"]
    write = ["--html", str(page), "--card", str(card), "--pictures", str(pictures)]
    assert main(["report", str(copy), *measure, *write]) == 0
    (outcome,) = PruningReport.load(copy).outcomes
    assert outcome.removed == PruningReport.load(run / "report.json").removal(2).layers
    assert "perplexity of text (seq128" in capsys.readouterr().out
    assert page.read_text().count("<img") == 5
    assert f"{outcome.after.scores[0].value:.4g}" in card.read_text()
    assert {path.name for path in pictures.iterdir()} == {
        "contributions.png",
        "curve.png",
        "depth.png",
        "interactions.png",
        "surrogate.png",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["prune", "MODEL", "--report", "REPORT", "--n-remove", "5", "--out", "OUT"],
            "--n-remove must be one of [1, 2",
        ),
        (["prune", "bundled", "--report", "REPORT", "--n-remove", "2", "--out", "OUT"], "model of 5 layers"),
        (["prune", "MODEL", "--remove", "9", "--out", "OUT"], "9"),
        (["report", "TEXT"], "must be a report in JSON"),
        (["report", "REPORT", "--card", "OUT"], "give --model and --pruned"),
        (["report", "nowhere.json"], "nowhere.json"),
        (["evaluate", "MODEL", "--text", "EMPTY"], "must hold text"),
        (["fit", "no/such/folder", "--text", "TEXT", "--out", "OUT"], "no/such/folder"),
        (
            ["fit", "MODEL", "--text", "TEXT", "--out", "OUT", "--n-sequences", "9999"],
            "calibration texts must fill 9999",
        ),
    ],
)
def test_failures_are_one_line_and_exit_1(arguments, message, run, folder, capsys):
    (folder / "empty.txt").write_text(" \n")
    names = {
        "MODEL": STORIES,
        "REPORT": run / "report.json",
        "TEXT": folder / "calibration.txt",
        "EMPTY": folder / "empty.txt",
        "OUT": folder / "failed",
    }
    assert main([str(names.get(argument, argument)) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"layershap {arguments[0]}: error: ")
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_pruning_other_weights_warns(run, folder, tmp_path, capsys):
    other = AutoModelForCausalLM.from_pretrained(STORIES)
    with torch.no_grad():
        other.lm_head.weight.mul_(1.01)
    other.save_pretrained(tmp_path / "other")
    shutil.copy(STORIES / "tokenizer.json", tmp_path / "other")
    shutil.copy(STORIES / "tokenizer_config.json", tmp_path / "other")
    arguments = ["--report", str(run / "report.json"), "--n-remove", "1", "--out", str(tmp_path / "out")]
    assert main(["prune", str(tmp_path / "other"), *arguments]) == 0
    assert "made for other weights" in capsys.readouterr().err


def test_wrong_usage_exits_2():
    for arguments in ([], ["fit"], ["no-such-command"], ["fit", "x", "--text", "y", "--out", "z", "--seed", "one"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2


def test_every_option_has_a_help():
    program = build_parser()
    commands = next(action for action in program._actions if isinstance(action, argparse._SubParsersAction))
    assert set(commands.choices) == set(help_texts()) - {""}
    for name, command in commands.choices.items():
        assert command.description, name
        for action in command._actions:
            assert (action.help or "").strip(), (name, action.option_strings or action.dest)
    assert len(commands._choices_actions) == len(commands.choices), "a command without a help"
    # Formatting fills in what a help text refers to; a default of None would be printed as such.
    assert not [name for name, text in help_texts().items() if "None" in text]


def test_module_and_interrupt(folder):
    """`python -m layershap` runs; Ctrl-C exits 130 and leaves a ledger from which the same command goes on."""
    out = folder / "interrupted"
    command = [sys.executable, "-m", "layershap", "fit", "bundled", "--text", str(folder / "calibration.txt")]
    command += ["--out", str(out), "--seq-len", "64", "--n-sequences", "4", "--n-masks", "100", "--format", "json"]
    # The ledger knows the number of threads, so the same command means the same environment.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    ledger = out / "ledger.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (ledger.exists() and ledger.read_bytes().count(b"\n") > 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "the same command resumes" in stderr
    paid = ledger.read_bytes().count(b"\n") - 1
    assert paid > 0
    finished = subprocess.run(command, capture_output=True, text=True, env=env)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)["report"]
    assert found["cost"]["n_evaluated"] + paid == ledger.read_bytes().count(b"\n") - 1
    assert np.isfinite([layer["contribution"] for layer in found["layers"]]).all()


def test_baselines_are_compared_on_the_protocols_text(folder, stories, capsys):
    picture = folder / "baselines.png"
    arguments = ["--text", str(folder / "calibration.txt"), "--eval-text", str(folder / "held-out.jsonl")]
    arguments += ["--n-remove", "1", "2", "--methods", "layershap", "shortgpt", "last", *FIT[:4]]
    assert main(["baselines", str(STORIES), *arguments, "--picture", str(picture), "--format", "json"]) == 0
    data = read_json(capsys)
    records = {(record["method"], record["n_remove"]): record for record in data["records"]}
    assert {method for method, _ in records} == {"layershap", "shortgpt", "last"}
    assert records["last", 2]["layers"] == [3, 4]
    dense = evaluate(*stories, texts=[STORY * 3] * 4)["text", "perplexity"].value
    assert records["last", 0]["perplexity"] == pytest.approx(dense, rel=1e-6)
    assert picture.stat().st_size > 5000
    differences = {(row["method"], row["n_remove"]): row for row in data["differences"]}
    assert set(differences) == {("shortgpt", 1), ("shortgpt", 2), ("last", 1), ("last", 2)}
    ratio = records["last", 2]["perplexity"] / records["layershap", 2]["perplexity"]
    assert differences["last", 2]["percent"] == pytest.approx(100 * (ratio - 1), rel=1e-9)
    assert differences["last", 2]["above"] == "layershap"


def test_sublayers_from_fit_to_report(folder, capsys):
    out = folder / "sub"
    text = str(folder / "calibration.txt")
    arguments = ["--granularity", "sublayer", "--max-remove", "3", *FIT[:4]]
    assert main(["fit", str(STORIES), "--text", text, "--out", str(out), *arguments]) == 0
    removal = PruningReport.load(out / "report.json").removal(2)
    capsys.readouterr()
    prune = ["--report", str(out / "report.json"), "--n-remove", "2", "--out", str(out / "small"), "--format", "json"]
    assert main(["prune", str(STORIES), *prune]) == 0
    data = read_json(capsys)
    assert data["load_with"] == "layershap.load_pruned"
    assert data["n_parameters"] == removal.n_parameters
    measure = [str(out / "report.json"), "--model", str(STORIES), "--pruned", str(out / "small"), "--no-speed"]
    assert main(["report", *measure]) == 1
    assert "Give --n-remove, the number of sublayers removed" in capsys.readouterr().err
    assert main(["report", *measure, "--n-remove", "2", "--html", str(out / "page.html")]) == 0
    names = [PruningReport.load(out / "report.json").layers[player].name for player in removal.layers]
    assert f"Without sublayers {', '.join(names)}" in (out / "page.html").read_text()

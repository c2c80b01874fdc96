"""``layershap prune --target``: the library's choice, from the report's file."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForCausalLM

from layershap import PruningReport

from .helpers.commands import prune, refusal


def test_a_target_is_met_by_the_folder_that_is_written(run_folder, tmp_path, capsys):
    report = PruningReport.load(run_folder / "report.json")
    whole, _, second = report.curve().points[:3]
    for target in (f"parameters<={second.n_parameters}", f"bytes<={second.n_bytes}B"):
        assert prune(tmp_path / "small", "--report", run_folder / "report.json", "--target", target, "--overwrite") == 0
        told = capsys.readouterr().out
        small = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
        assert small.num_parameters() == second.n_parameters < whole.n_parameters
        assert "target: at most" in told
        assert f"remove 2 ({', '.join(second.names)})" in told
        assert "expected: perplexity +" in told
        card = (tmp_path / "small" / "README.md").read_text(encoding="utf-8")
        assert "- number of layers: the smallest removal that meets the target (at most " in card


def test_a_perplexity_is_read_from_the_report_and_the_choice_is_in_the_json(run_folder, tmp_path, capsys):
    points = PruningReport.load(run_folder / "report.json").curve().points[1:]
    limit = max(point.perplexity_increase for point in points)
    options = ["--report", run_folder / "report.json", "--target", f"perplexity<=+{limit + 1:.0f}%", "--format", "json"]
    assert prune(tmp_path / "small", *options) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["target"]["n_remove"] == len(data["removed"]) == points[-1].n_remove
    assert data["target"]["reached"] == points[-1].perplexity_increase
    assert data["target"]["point"]["scored_on"] == "searched"
    assert "the largest removal that meets the target" in (tmp_path / "small" / "README.md").read_text(encoding="utf-8")


def test_a_speed_is_measured_here(run_folder, tmp_path, capsys):
    report = run_folder / "report.json"
    target = "prefill_latency<=1000s,batch=2,prompt=8,new=1"
    assert prune(tmp_path / "small", "--report", report, "--target", target) == 1
    assert "the whole model already meets the target (prefill within" in refusal(capsys)
    assert prune(tmp_path / "small", "--report", report, "--target", "decode_latency<=1e-9s,prompt=8,new=4") == 1
    assert "the nearest is --n-remove " in refusal(capsys)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("target", ["parameters<=1", "perplexity<=0.0001%"])
def test_nothing_is_written_for_what_can_not_be_reached(run_folder, tmp_path, capsys, target):
    assert prune(tmp_path / "small", "--report", run_folder / "report.json", "--target", target) == 1
    assert "meets the target" in refusal(capsys)
    assert not (tmp_path / "small").exists()

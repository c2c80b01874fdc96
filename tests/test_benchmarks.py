"""The selection benchmark runs from a clean clone and writes its tables."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    import benchmarks

    return benchmarks


@pytest.fixture
def selection(benchmarks, monkeypatch, tmp_path):
    from benchmarks.selection import oracle, problems, selection

    monkeypatch.setattr(oracle, "CACHE", tmp_path)
    for name, count in (("SEQUENCES", 2), ("MORE_SEQUENCES", 40), ("TEST_SEQUENCES", 4)):
        monkeypatch.setattr(problems, name, count)
    return selection


def test_quick_selection_benchmark_writes_tables(selection, monkeypatch, tmp_path, capsys):
    document = tmp_path / "selection.md"
    document.write_text("before\n<!-- tables: begin -->\nold\n<!-- tables: end -->\nafter\n")
    monkeypatch.setattr(sys, "argv", ["selection.py", "--quick", "--models", "stories", "--write", str(document)])
    selection.main()
    written = document.read_text()
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert "old" not in written
    rows = [line.split(" | ") for line in written.splitlines() if line.startswith("| best on the calibration text")]
    assert rows[0][1] == "0.00 (0.00)"  # the optimum has no regret
    assert "stories260K" in capsys.readouterr().out


def test_a_model_that_is_not_trained_is_skipped_with_the_command_that_trains_it(selection, monkeypatch, capsys):
    from benchmarks.selection import problems

    monkeypatch.setattr(problems, "MODELS", Path("/nowhere"))
    monkeypatch.setattr(sys, "argv", ["selection.py", "--models", "llama24"])
    selection.main()
    assert "python scripts/train_benchmark_models.py llama24" in capsys.readouterr().out


def test_costs_of_a_fit_are_told_for_a_model_that_is_not_there(benchmarks):
    from benchmarks.speed import fit_cost

    costs = list(fit_cost.estimates(fit_cost.skeleton(8, 32, 48, 4, 2, 64)).values())
    default, quarter, one_shot, paper = costs
    assert default.layer_run_tokens > quarter.layer_run_tokens > one_shot.layer_run_tokens
    assert (one_shot.n_masks, paper.n_masks) == (8, 8001)  # the paper's masks and the whole model
    assert [cost.seconds for cost in costs] == [None] * 4
    cells = fit_cost.row("tiny", 8, "one-shot", one_shot)
    assert cells[2:4] == ["8", f"{one_shot.layer_runs * 128 * 128 / 8 / 1e6:,.1f}"]

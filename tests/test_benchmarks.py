"""The benchmarks can be run from a clean clone, and their tables are where they are said to be."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from pathlib import Path

import pytest

from layershap.baselines import SLEB

from .helpers.models import STORIES

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


@pytest.fixture
def real_model(benchmarks, monkeypatch, tmp_path):
    from benchmarks.common import packed
    from benchmarks.real_model import compare, fits, rows, subject
    from benchmarks.selection import generalisation

    # The published stories260K has 512 tokens: whole texts take it long to read.
    beginning = {name: packed(name)[:100_000] for name in ("wikitext2-valid", "wikitext2-raw-test", "c4-sample")}
    for module in (subject, generalisation):
        monkeypatch.setattr(module, "packed", beginning.__getitem__)
    for module in (fits, rows, subject):
        monkeypatch.setattr(module, "CACHE", tmp_path)

    def run(action, *options):
        given = ["--model", str(STORIES), "--test-sequences", "16", "--questions", "4", *options]
        monkeypatch.setattr(sys, "argv", ["compare.py", action, *given])
        compare.main()

    return run


def test_the_table_of_a_real_model_is_made_row_by_row_and_nothing_twice(real_model, tmp_path, capsys):
    chosen = ["--rows", "ShortGPT, 10 ", "SliceGPT", "random 0", "default, 128"]
    real_model("run", *chosen)
    records = {path: path.read_text() for path in tmp_path.glob("real_model_*.jsonl")}
    assert len(records) == 4
    capsys.readouterr()
    real_model("run", *chosen)
    assert capsys.readouterr().out == ""
    assert records == {path: path.read_text() for path in tmp_path.glob("real_model_*.jsonl")}
    page = tmp_path / "page.md"
    real_model("table", "--write", str(page))
    written = page.read_text()
    first = written.index("WikiText-2 test, seq128, 16 sequences")
    body = written[first:].split("\n\n")[1].splitlines()[2:]
    rows = {cells[0]: cells[1:] for cells in (line.strip("| ").split(" | ") for line in body)}
    assert len(rows["layershap, default, 128 sequences"]) == 2
    assert all(float(cell.strip("*").replace(",", "")) > 1 for cells in rows.values() for cell in cells)
    assert "the paper's recipe, 8,000 masks, 10 sequences" in written.split("Not finished yet")[1].split("\n")[0]
    assert "prefill, tokens/s" in written
    with pytest.raises(SystemExit, match=r"are of \[1, 2\] removed layers, asked for are \[1, 3\]"):
        real_model("fit", "--n-remove", "3", "1")


def test_what_a_row_chose_is_compensated_and_readme_shows_both(real_model, tmp_path, capsys):
    pytest.importorskip("layershap.compensation")
    real_model("run", "--rows", "default + ")
    assert capsys.readouterr().out.count("waits for layershap, default, 128 sequences") == 3
    real_model("run", "--rows", "default, 128", "default + ", "SLEB, raced")
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- real model: begin -->\n<!-- real model: end -->\nafter\n")
    real_model("readme", "--write", str(page))
    lines = page.read_text().splitlines()
    rows = {cells[0]: cells[1:] for cells in (line.strip("| ").split(" | ") for line in lines if " / " in line)}
    names = ("layershap, default, 128 sequences", "layershap, default + LinearRefit, 256 sequences of the mixture")
    plain, refitted = ([float(re.split(r"[*]* / ", cell)[0].strip("*")) for cell in rows[name]] for name in names)
    assert all(after < before for before, after in zip(plain, refitted))
    assert any(line.startswith("Not measured yet: one-shot perplexity; ") for line in lines)
    assert lines[0] == "before"
    assert lines[-1] == "after"
    real_model("table", "--write", str(tmp_path / "page.md"))
    assert "CPU seconds of a removal with its compensation" in (tmp_path / "page.md").read_text()


def test_every_module_can_be_imported_and_every_script_is_listed_with_its_command(benchmarks):
    listed = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    names = [found.name for found in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")]
    scripts = [module for module in map(importlib.import_module, names) if hasattr(module, "main")]
    assert len(scripts) == 16
    for script in scripts:
        assert f"python -m {script.__name__}" in script.__doc__
        assert f"python -m {script.__name__}" in listed


def test_every_table_is_listed_and_on_a_page():
    listed = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("**/*.md"))
    tables = sorted(path.name for path in (ROOT / "benchmarks" / "results").glob("*.md"))
    assert tables
    assert [name for name in tables if f"results/{name})" not in listed] == []
    assert [name for name in tables if f"benchmarks/results/{name}\n" not in pages] == []


def test_tables_go_between_a_pages_markers_or_to_its_end(benchmarks, tmp_path):
    from benchmarks.common import write_between

    page = tmp_path / "page.md"
    for text in ("old\n", "new"):
        write_between(page, "tables", text)
    write_between(page, "others", "more")
    kept = {"tables": "new", "others": "more"}
    blocks = [f"<!-- {name}: begin -->\n\n{text}\n\n<!-- {name}: end -->\n" for name, text in kept.items()]
    assert page.read_text() == "".join(blocks)


def test_what_a_fit_asked_for_counts_also_if_the_ledger_held_it(benchmarks, stories, stories_calibration, tmp_path):
    from benchmarks.selection.oracle import counted

    spent = []
    for _ in range(2):
        with counted() as found:
            fitted = SLEB(early_barrier=0, latter_barrier=0, max_remove=2, ledger=tmp_path / "masks.jsonl")
            fitted.fit(stories[0], stories_calibration)
        spent.append(found)
    assert fitted.diagnostics_["n_evaluated"] == 0
    assert spent[0] == spent[1]
    assert spent[0].masks == 5 + 4
    assert spent[0].layer_run_tokens % stories_calibration.ids_ST.numel() == 0
    assert spent[0].layer_run_tokens > 5 * stories_calibration.ids_ST.numel()

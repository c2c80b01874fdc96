"""The benchmarks can be run from a clean clone, and their tables are where they are said to be."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import layershap
from layershap import shapley
from layershap.baselines import SLEB

from .helpers.models import STORIES, load_stories

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
        tested = ["--test-sequences", "16", "--questions", "4"] if action == "run" else []
        monkeypatch.setattr(sys, "argv", ["compare.py", action, "--model", str(STORIES), *tested, *options])
        compare.main()

    return run


def test_the_table_of_a_real_model_is_made_row_by_row_and_nothing_twice(real_model, tmp_path, capsys):
    chosen = ["--rows", "ShortGPT, 10 ", "SliceGPT", "random 0", "default, 128"]
    real_model("run", *chosen)
    records = {path: path.read_text() for path in tmp_path.glob("real_model_*.jsonl")}
    assert len(records) == 5
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


def test_compensations_are_run_once_and_what_was_tested_before_is_taken(benchmarks, monkeypatch, tmp_path, capsys):
    from benchmarks.common import packed
    from benchmarks.compensation import compensation
    from benchmarks.leaderboard.board import Board
    from benchmarks.real_model import subject
    from benchmarks.records import append
    from benchmarks.selection import generalisation

    for module in (subject, generalisation):
        monkeypatch.setattr(module, "packed", lambda name: packed(name)[:100_000])
    for module in (subject, compensation):
        monkeypatch.setattr(module, "CACHE", tmp_path)

    def run(action, *options):
        monkeypatch.setattr(sys, "argv", ["compensation.py", action, "--model", "gpt2", *options])
        compensation.main()
        return capsys.readouterr().out

    layers = compensation.sets_of(Board.read("gpt2"), "default")[4]
    tested = {"measure": "C4, seq128, 1 sequences", "set": " ".join(map(str, layers)), "nll": [381.0], "tokens": 127}
    append(subject.record_of("gpt2", 0, "tests"), tested)
    small = ["--sets", "default", "--n", "4", "--kinds", "mixture", "--tokens", "512", "--test-sequences", "2"]
    small += ["--methods", "none", "Rescale"]
    rows = [json.loads(line) for line in run("run", *small).splitlines()]
    assert [row["layers"] for row in rows] == [[], list(layers), list(layers)]
    assert [row["method"] for row in rows] == ["none", "none", "Rescale"]
    assert run("run", *small) == ""
    [body] = [part for part in run("table").split("### ") if part.startswith("4 removed")]
    assert "(default, SLEB)" in body
    header, none, rescaled = ([cell.strip() for cell in line.split("|")] for line in body.splitlines() if "| " in line)
    assert none[header.index("C4")] == f"{np.exp(3):.1f}"
    assert rescaled[1:4] == ["Rescale", "mixture", "512"]


def test_every_module_can_be_imported_and_every_script_is_listed_with_its_command(benchmarks):
    listed = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    names = [found.name for found in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")]
    scripts = [module for module in map(importlib.import_module, names) if hasattr(module, "main")]
    assert len(scripts) == 30
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


def test_hours_follow_from_counts_and_what_is_assumed(benchmarks):
    from benchmarks.speed import scale

    given = scale.Assumptions(products=2e12, share=0.5, card_bytes=1e9, room=0.8, loading=1e8)
    work = scale.Work(shared=3.6e16, alone=7.2e16, loads=36, weight_bytes=2e9)  # 10 hours at 1e12 FLOP/s
    assert given.cards_of_a_copy(work.weight_bytes) == 3
    assert scale.hours(work, 1, given) == pytest.approx((10, 10, True))  # 0.2 hours of loading meanwhile
    assert scale.hours(replace(work, loads=3600), 1, given) == pytest.approx((20, 20, True))
    assert scale.hours(replace(work, loads=3600), 3, given) == pytest.approx((10, 10, False))  # one of three at a time
    assert scale.hours(work, 4, given) == pytest.approx((2.5, 5, True))  # shared evenly, or nothing shared
    small = replace(work, weight_bytes=1e8)
    assert scale.hours(small, 8, given) == pytest.approx((1.25, 2.5, False))


def test_what_masks_cost_alone_is_counted_from_one_layer_and_the_head(benchmarks):
    from benchmarks.speed import scale

    game = layershap.LayerGame(load_stories(), scale.random_calibration(512, 2, 16))
    masks = shapley.all_masks(5)
    none, alone = (game.estimate_cost(part) for part in (masks[:1] & False, np.eye(5, dtype=bool)[:1]))
    cost = game.estimate_cost(masks)
    tokens = cost.n_tokens
    work = scale.work_of(cost, (alone.flops - none.flops) / tokens, none.flops / tokens, 1.0, searches=False)
    assert work.shared == pytest.approx(none.flops * 32 + (alone.flops - none.flops) * 31, rel=1e-6)
    assert work.alone == pytest.approx(none.flops * 32 + (alone.flops - none.flops) * 5 * 16, rel=1e-6)
    assert work.loads == 1


def test_the_check_for_cards_runs_on_a_cpu(benchmarks, monkeypatch, capsys):
    from benchmarks.speed import gpu_check

    options = ["--masks", "6", "--compile", "eager", "--seconds", "2"]
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *options])
    gpu_check.main()
    printed = capsys.readouterr().out
    for title in ("The whole evaluation", "Tokens of a layer call", "Four ways", "A fit"):
        assert f"## {title}" in printed
    for way in gpu_check.NAMES.values():
        assert f"| {way} |" in printed
    assert float(re.search(r"between two ways: (\S+)\.\n", printed)[1]) < 1e-5


def test_the_script_for_cards_runs_its_tests_and_its_tables():
    found = "states_wait_on_the_host_for_a_gpu or model_on_another_device"
    environment = {**os.environ, "PYTHON": sys.executable, "TESTS": found}
    script = [str(ROOT / "scripts" / "gpu_check.sh"), "--help"]
    done = subprocess.run(script, capture_output=True, text=True, check=True, env=environment)
    assert re.search(r"2 (skipped|passed)", done.stdout)
    assert "--smollm2" in done.stdout


@pytest.mark.parametrize("name", ["gpt2", "mamba2", "stories260k"])
def test_a_published_game_is_the_stored_evaluations_in_shapiqs_format(benchmarks, name, tmp_path):
    from benchmarks.leaderboard import games
    from benchmarks.values.values import STORED

    path = games.GAMES / f"{name}.json"
    players, values, empty = games.read_game(path)
    with np.load(STORED / f"{name}.npz") as data:
        masks = np.unpackbits(data["masks"], axis=1, count=len(players)).astype(bool)
        mean_M = data["nll"].astype(float).sum(axis=1) / data["counts"].sum()
    assert len(values) == len(masks) == 2 ** len(players)
    expected = np.exp(mean_M[masks.all(axis=1)] - mean_M)
    found = np.array([values[frozenset(np.flatnonzero(mask).tolist())] for mask in masks])
    assert found == pytest.approx(expected, rel=1e-6)
    assert (players[0], empty) == ("layer 0", values[frozenset()])
    assert values[frozenset(range(len(players)))] == 1

    written = {path.name: path.read_text() for path in games.write_games(tmp_path)}
    assert written[path.name] == path.read_text()

    shapiq = pytest.importorskip("shapiq")
    loaded = shapiq.Game.load(path)
    assert loaded.precomputed
    assert loaded(masks) == pytest.approx(expected - empty, abs=1e-7)
    ours = shapley.Semivalue.shapley(len(players)).of_table(masks, expected)
    theirs = loaded.exact_values("SV", order=1)
    assert [theirs[(player,)] for player in range(len(players))] == pytest.approx(ours, abs=1e-6)


def test_the_tables_of_values_are_of_every_stored_game_by_default(benchmarks):
    from benchmarks.values.values import stored_names

    stored = (ROOT / "benchmarks" / "data" / "values").glob("*.npz")
    assert sorted(stored_names()) == sorted(path.stem for path in stored)


def test_every_board_can_be_read_and_its_page_is_made_of_it(benchmarks):
    from benchmarks.leaderboard import board, page

    page_text = (ROOT / "docs" / "leaderboard.md").read_text(encoding="utf-8")
    boards = [board.Board.read(name) for name in board.models()]
    assert {found.model for found in boards} >= {"gpt2", "smollm2"}
    assert page.page(boards) in page_text
    for found in boards:
        for entry in found.entries:
            assert set(entry.perplexity) <= set(found.measures)
            assert entry.date
            assert entry.command


@pytest.fixture
def leaderboard(benchmarks, monkeypatch, tmp_path):
    from benchmarks import common
    from benchmarks.leaderboard import board, leaderboard
    from benchmarks.real_model import subject

    # The other texts are not scored here: their beginnings are enough, and take less long to read.
    beginning = {name: common.packed(name)[:100_000] for name in ("wikitext2-raw-test", "c4-sample")}
    for module in (common, subject):
        monkeypatch.setattr(module, "packed", beginning.__getitem__)
    shutil.copy(board.FOLDER / "gpt2.json", tmp_path)

    def run(action, *options):
        given = ["leaderboard.py", action, "--model", "gpt2", "--folder", str(tmp_path), *options]
        monkeypatch.setattr(sys, "argv", given)
        leaderboard.main()

    # One text is enough to show how scores are made.
    whole = board.Board.read("gpt2")
    few = {key: value for key, value in whole.measures.items() if key.startswith("book")}
    replace(whole, measures=few).write(tmp_path)
    return run


def test_a_submitted_set_is_scored_beside_the_best_of_its_size(leaderboard, tmp_path, capsys):
    from benchmarks.leaderboard.board import Board

    before = Board.read("gpt2", tmp_path)
    (measure,) = before.measures
    best = before.best(measure, 2)
    leaderboard("score", "--removed", *map(str, best.removed))
    printed = capsys.readouterr().out
    assert "place 1 of" in printed
    assert "; reproduced)" in printed
    assert "from which it differs by +0.00 ± 0.00%" in printed
    assert Board.read("gpt2", tmp_path) == before

    submission = tmp_path / "sets" / "mine.json"
    submission.parent.mkdir()
    submission.write_text(json.dumps({"method": "mine", "calibrated_on": "none", "sets": [[0, 11]]}))
    leaderboard("score", "--submission", str(submission), "--add")
    (mine,) = [entry for entry in Board.read("gpt2", tmp_path).entries if entry.method == "mine"]
    assert mine.removed == [0, 11]
    assert mine.perplexity[measure] > 2 * best.perplexity[measure]
    assert mine.versions["layershap"] == layershap.__version__


def test_a_submission_that_cant_be_scored_is_refused(leaderboard, tmp_path):
    submission = tmp_path / "sets" / "mine.json"
    submission.parent.mkdir()
    submission.write_text(json.dumps({"method": "mine", "sets": [[12]]}))
    with pytest.raises(SystemExit, match="it lacks calibrated_on"):
        leaderboard("score", "--submission", str(submission))
    with pytest.raises(ValueError, match=r"distinct layers from 0 to 11 in ascending order, got \[12\]"):
        leaderboard("score", "--removed", "12")
    with pytest.raises(SystemExit, match="give --removed"):
        leaderboard("score")

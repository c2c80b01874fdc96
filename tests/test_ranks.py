"""Several processes, started as a user would, evaluate one game together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from layershap.exceptions import LedgerFormatError, RanksError
from layershap.forward.plan import make_sweep, shards
from layershap.ledger.of_ranks import left_behind, united
from layershap.masks import distinct
from layershap.ranks.together import Ranks

PROGRAM = Path(__file__).parent / "helpers" / "rank_program.py"


def environment() -> dict[str, str]:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    return {**{k: v for k, v in os.environ.items() if k not in names}, "OMP_NUM_THREADS": "1"}


def launched(folder: Path, n_ranks: int, *names: str) -> subprocess.CompletedProcess[str]:
    """Each rank's program, under torch's launcher (or none for one rank)."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_ranks)] if n_ranks > 1 else []
    command = [sys.executable, *launcher, str(PROGRAM), str(folder), *names]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=500, check=False)


def results(folder: Path, n_ranks: int, *names: str) -> dict[str, list[dict]]:
    """What each rank found."""
    done = launched(folder, n_ranks, *names)
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        name: [json.loads((folder / name / f"found.{rank}.json").read_text()) for rank in range(n_ranks)]
        for name in names
    }


SAME = ("fit", "half_precision", "float32_fails_on_one", "sleb", "callable_utility", "own_work")
DIFFERENT = ("other_text", "other_masks", "ledger_of_one_unwritable")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return folder, {name: found[0] for name, found in results(folder, 1, *SAME).items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, results(folder, 2, *SAME, "seed_by_chance", *DIFFERENT)


def test_a_fit_is_that_of_one_process_bit_for_bit(one, two):
    same_as_one(two[1]["fit"], one[1]["fit"])
    nothing_twice(two[0] / "fit", one[0] / "fit", 2)


def test_what_half_precision_leaves_open_is_the_same_too(one, two):
    same_as_one(two[1]["half_precision"], one[1]["half_precision"])
    check = one[1]["half_precision"]["precision"]
    assert check["note"] == ""
    assert check["n_pairs"] > 0
    assert list((two[0] / "half_precision").glob("ledger.jsonl.float32*rank1"))


def test_where_float32_fails_on_one_rank_all_keep_their_choice(one, two):
    assert one[1]["float32_fails_on_one"]["note"] == "float32 failed (OutOfMemoryError: no room)"
    same_as_one(two[1]["float32_fails_on_one"], one[1]["float32_fails_on_one"])


def same_as_one(found, alone):
    assert all(result == found[0] for result in found)
    assert {**found[0], "layer_runs": None} == {**alone, "layer_runs": None}
    assert found[0]["layer_runs"] > alone["layer_runs"]  # a shard shares no prefix with the one before it


def nothing_twice(folder, alone, n_ranks):
    files = list(alone.glob("ledger.jsonl*"))
    assert len(files) > 3  # a file for each part of the text
    for file in files:
        paths = [folder / file.name, *(folder / f"{file.name}.rank{rank}" for rank in range(1, n_ranks))]
        kept = [masks_in(path) for path in paths]
        assert set.union(*kept) == masks_in(file)
        assert sum(map(len, kept)) == len(masks_in(file))


def masks_in(path: Path) -> set[str]:
    return {json.loads(line)["mask"] for line in path.read_text().splitlines()[1:]}


def test_baselines_and_callables_are_shared_too(one, two):
    for name in ("sleb", "callable_utility"):
        assert two[1][name] == [one[1][name]] * 2


def test_a_seed_left_to_chance_is_one_for_all(two):
    first, second = two[1]["seed_by_chance"]
    assert first == second


def test_work_of_its_own_is_a_ranks_own(one, two):
    first, second = two[1]["own_work"]
    assert first == one[1]["own_work"]
    assert second != first


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("other_text", "RanksError: all ranks must have the same model, text and settings, rank 1 has another"),
        ("other_masks", "RanksError: all ranks must have the same masks to evaluate, rank 1 has another"),
        ("ledger_of_one_unwritable", "RanksError: rank 1 of 2 failed, so rank 0 ends too: LedgerError: a ledger must"),
    ],
)
def test_ranks_that_differ_say_so(two, what, message):
    assert two[1][what][0]["error"].startswith(message)


@pytest.mark.slow
def test_other_numbers_of_ranks_go_on(tmp_path, one):
    same_as_one(results(tmp_path, 3, "fit")["fit"], one[1]["fit"])
    nothing_twice(tmp_path / "fit", one[0] / "fit", 3)
    cut = tmp_path / "fit" / "ledger.jsonl"
    cut.write_bytes(b"".join(cut.read_bytes().splitlines(keepends=True)[:5]))
    for n_ranks in (2, 1):
        found = results(tmp_path, n_ranks, "fit")["fit"][0]
        assert (found["contributions"], found["sets"]) == (one[1]["fit"]["contributions"], one[1]["fit"]["sets"])
    assert found["n_evaluated"] == 0  # the two ranks had evaluated what was missing


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_others_and_a_restart_goes_on(tmp_path, one):
    (tmp_path / "fit").mkdir()
    done = launched(tmp_path, 2, "dies")
    assert done.returncode != 0
    assert not (tmp_path / "dies" / "found.1.json").exists()
    told = json.loads((tmp_path / "dies" / "found.0.json").read_text())["error"]
    assert told.startswith("RanksError: rank 0 of 2 can't reach the others")
    assert "start the same command again to go on" in told
    found = results(tmp_path, 2, "fit")["fit"][0]
    assert (found["contributions"], found["sets"]) == (one[1]["fit"]["contributions"], one[1]["fit"]["sets"])
    assert 0 < found["n_evaluated"] < one[1]["fit"]["n_evaluated"]


@pytest.mark.slow
def test_the_command_line(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The sea was calm and the ship lay still. " * 60, encoding="utf-8")
    out = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "layershap", "fit", "bundled", "--text", str(text), "--out", str(out)]
    options = ["--max-remove", "1", "--n-masks", "30", "--seq-len", "16"]
    done = subprocess.run(
        [*launcher, *command, *options], env=environment(), capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("next: layershap prune") == 1
    assert {"report.json", "ledger.jsonl", "ledger.jsonl.rank1"} <= {path.name for path in out.iterdir()}


# -- what needs no process ---------------------------------------------------------------------------------------------


def work(masks_UL, head):
    return make_sweep(masks_UL).layer_runs + head * len(masks_UL) if len(masks_UL) else 0


@pytest.mark.parametrize("n_shards", [2, 3, 8])
@pytest.mark.parametrize("head", [0.0, 7.5])
def test_shards_are_even_and_cover_all_masks(n_shards, head):
    rng = np.random.default_rng(0)
    masks_UL = distinct(rng.random((600, 30)) < 0.75)
    cut = [masks_UL[shard] for shard in shards(masks_UL, n_shards, head)]
    assert np.array_equal(np.concatenate(cut), masks_UL)
    works = [work(part, head) for part in cut]
    assert max(works) <= 1.05 * sum(works) / n_shards
    assert sum(works) <= work(masks_UL, head) + (n_shards - 1) * 30


@pytest.mark.parametrize("n_masks", [0, 1, 2])
def test_fewer_masks_than_shards(n_masks):
    masks_UL = distinct(np.eye(5, dtype=bool)[:n_masks])
    cut = shards(masks_UL, 3)
    assert len(cut) == 3
    assert sum(shard.stop - shard.start for shard in cut) == n_masks


def test_one_process_is_alone():
    assert Ranks.of_process() == Ranks(0, 1)
    assert Ranks().together(lambda: 5) == [5]
    Ranks().check_same("a", "letter")
    with pytest.raises(RanksError, match="all ranks must have the same letter, rank 1"):
        Ranks(0, 2).raise_unless_same(["a", "b"], "letter")


def test_files_of_ranks_that_are_no_more(tmp_path):
    first = tmp_path / "l.jsonl"
    for name in ("l.jsonl", "l.jsonl.rank1", "l.jsonl.rank2", "l.jsonl.rank10", "l.jsonl.rankx", "l.jsonl.ab12.rank3"):
        (tmp_path / name).touch()
    assert [path.suffix for path in left_behind(first, 2)] == [".rank2", ".rank10"]
    assert left_behind(tmp_path / "none" / "l.jsonl", 1) == []


def test_a_mask_with_two_scores_is_refused():
    same = {"nll": np.array([1.0, np.nan])}
    assert united({Path("a"): {b"m": same}, Path("b"): {b"m": {"nll": np.array([1.0, np.nan])}}}) == {b"m": same}
    with pytest.raises(LedgerFormatError, match="b holds other numbers for a mask"):
        united({Path("a"): {b"m": same}, Path("b"): {b"m": {"nll": np.array([1.0, 2.0])}}})

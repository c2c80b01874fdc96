"""What a benchmark's run has done is kept in the repository: tables and further runs begin with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def records(monkeypatch, tmp_path):
    """The module, with its folders in ``tmp_path``."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import records

    monkeypatch.setattr(records, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(records, "KEPT", tmp_path / "records")
    return records


def keep(records, monkeypatch, *names):
    monkeypatch.setattr(sys, "argv", ["records.py", "keep", *names])
    records.main()


def test_kept_rows_are_read_without_the_cache_and_before_new_ones(records, monkeypatch):
    record = records.CACHE / "fits.jsonl"
    records.append(record, {"draw": 0})
    records.append(record, {"draw": 1})
    keep(records, monkeypatch, "fits")
    before = records.read(record)
    assert [row["draw"] for row in before] == [0, 1]
    record.unlink()
    assert records.read(record) == before
    records.append(record, {"draw": 2})
    keep(records, monkeypatch, "fits")
    assert [row["draw"] for row in records.read(record)] == [0, 1, 2]
    record.unlink()
    assert [row["draw"] for row in records.read(record)] == [0, 1, 2]


def test_kept_rows_are_those_of_the_cache_alone(records, monkeypatch, tmp_path):
    records.append(records.CACHE / "fits.jsonl", {"draw": 0})
    keep(records, monkeypatch, "fits")
    assert records.read(tmp_path / "fits.jsonl") == []


def test_a_torn_line_is_not_kept(records, monkeypatch):
    record = records.CACHE / "fits.jsonl"
    records.append(record, {"draw": 0})
    with record.open("a") as file:
        file.write('{"draw": 1')
    keep(records, monkeypatch, "fits")
    record.unlink()
    assert [row["draw"] for row in records.read(record)] == [0]


def test_nothing_to_keep_is_said(records, monkeypatch):
    with pytest.raises(SystemExit, match=r"fits\.jsonl has no rows"):
        keep(records, monkeypatch, "fits")


def test_a_table_says_on_what_its_rows_were_run(records):
    record = records.CACHE / "fits.jsonl"
    records.append(record, {"draw": 0})
    records.append(record, {"draw": 1})
    rows = records.read(record)
    other = rows[0] | {"machine": "Z80", "date": "1976-07-01", "torch": "0.1"}
    said = records.made_on([*rows, other])
    assert said.endswith("1 of 1976-07-01 (torch 0.1, Z80).")
    assert f"2 of {rows[0]['date']} (torch {rows[0]['torch']}, {records.processor()})" in said

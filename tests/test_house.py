"""Rules that the code and its tests keep: short files, few positional arguments, tests named after what they test."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "layershap"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted(Path(__file__).parent.glob("test_*.py"))
OF_THE_WHOLE = {"benchmarks", "contributing", "docs", "docstrings", "examples", "golden", "house", "package", "rooms"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_short_and_its_functions_take_at_most_five_positional_arguments(path):
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 300
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
            own = [name for name in names if name not in ("self", "cls")]
            assert len(own) <= 5, f"{node.name}({', '.join(own)})"


def test_the_pruner_reads_as_a_table_of_contents():
    assert (PACKAGE / "pruner.py").read_text(encoding="utf-8").count("\n") < 290


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_a_test_file_is_named_after_a_room_and_shares_by_helpers_only(path):
    rooms = {part.stem for part in PACKAGE.iterdir()}
    about = path.stem.removeprefix("test_")
    rooms |= OF_THE_WHOLE
    assert about in rooms or any(about.startswith(f"{room}_") for room in rooms)
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(alias.name for alias in node.names)]
            assert not any(part.startswith("test_") for name in names for part in name.split(".")), ast.unparse(node)
            assert not any(part == "conftest" for name in names for part in name.split(".")), ast.unparse(node)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_a_test_replaces_nothing_private(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("monkeypatch.setattr", "mock.patch"):
            names = [argument.value for argument in node.args[:2] if isinstance(argument, ast.Constant)]
            parts = [part for name in names if isinstance(name, str) for part in name.split(".")]
            assert not any(part.startswith("_") for part in parts), ast.unparse(node)

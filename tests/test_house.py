"""Rules that the code keeps: short files, few positional arguments."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "layershap"
FILES = sorted(PACKAGE.rglob("*.py"))


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

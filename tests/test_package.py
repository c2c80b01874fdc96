"""The package as it is installed and imported: names on demand, extras for what needs them."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import layershap

ROOT = Path(__file__).parents[1]


def test_names_are_declared_alike_for_readers_and_for_type_checkers():
    tree = ast.parse(Path(layershap.__file__).read_text(encoding="utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    assert typed == layershap._HOME_OF | dict.fromkeys(("shapley", "tasks", "utilities"), "layershap")
    assert sorted(typed) == sorted(layershap.__all__)


def test_importing_the_package_imports_nothing_heavy_until_a_name_is_used():
    code = (
        "import sys, layershap\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'datasets'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert set(layershap.__all__) <= set(dir(layershap))\n"
        "layershap.LayerPruner\n"
        "assert 'torch' in sys.modules\n"
        "assert layershap.report.PruningReport is layershap.PruningReport\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_is_none_is_an_attribute_error():
    for name in ("LayerPrunner", "_private", "prune"):
        with pytest.raises(AttributeError, match=f"module 'layershap' has no attribute '{name}'"):
            getattr(layershap, name)
    with pytest.raises(ImportError, match="cannot import name 'LayerPrunner'"):
        exec("from layershap import LayerPrunner")


def test_the_readme_links_to_nothing_beside_it():
    """A package index shows it alone: a relative link would lead nowhere."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)|^\[[^\]]+\]:\s*(\S+)|(?:href|src)=[\"']([^\"']+)", text, re.MULTILINE)
    targets = ["".join(groups) for groups in links]
    assert targets
    assert not [target for target in targets if not target.startswith(("https://", "#"))]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("goal", "extras"), [("demo", ["plot"]), ("real", ["gguf"]), ("test", ["test"]), ("docs", ["test", "docs"])]
)
def test_a_goal_installs_what_it_needs_and_says_so(goal, extras, tmp_path):
    """A dry run in a place where nothing is installed yet."""
    found = subprocess.run(
        ["make", "-n", goal, f"VENV={tmp_path / 'venv'}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    installs = [line for line in found.stdout.splitlines() if "pip install" in line]
    assert [line.rpartition(" ")[2] for line in installs] == [f"'.[{extra}]'" for extra in extras]
    assert not [line for line in installs if "--quiet" in line or " -q " in line], "minutes of silence"
    assert found.stdout.count("The first time takes some minutes") == len(extras)

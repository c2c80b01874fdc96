"""The rooms of the package stand on floors: a file imports from its own room and from rooms below it, never from above.

Imports are read from the syntax tree, those inside functions too: an import that is put off is an arrow all the same.
Those under ``if TYPE_CHECKING`` are not followed, since they ask for nothing when the code runs; which rooms they may
name, of those above, is listed below, so that the list can only shrink.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "layershap"

# A room is a folder of the package, or a file beside them. Lowest first.
ROOMS = (
    # What every room may need: words, numbers, text.
    "exceptions",
    "ranks",
    "warning",
    "extras",
    "escaping",
    "places",
    "arrays",
    "masks",
    "limits",
    "random_state",
    "tables",
    "protocols",
    "inputs",
    # Texts, models, values, each for itself.
    "model",
    "calibration",
    "environment",
    "shapley",
    "utilities",
    "datasets",
    # What a model does without some layers: scored, or made smaller.
    "forward",
    "compensation",
    "surgery",
    "fingerprint",
    "ledger",
    "tasks",
    "game",
    "inspection",
    "scoring",
    "speed",
    "targets",
    # How layers are chosen.
    "surrogates",
    "samplers",
    "selection",
    "estimator",
    "fitting",
    "baselines",
    # What is kept and shown of it.
    "checkpoint",
    "interop",
    "display",
    "report",
    "comparison",
    # What users meet.
    "pruner",
    "testing",
    "layershap",
    "cli",
    "__main__",
)

# Room -> rooms above it that its annotations name.
ANNOTATED = {
    "fitting": {"pruner"},
    "display": {"report", "comparison"},
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def nodes(tree: ast.AST, *, for_types: bool) -> Iterator[ast.AST]:
    """All nodes that run, or all that only type checkers read."""
    for child in ast.iter_child_nodes(tree):
        if is_for_types(child):
            if for_types:
                yield from (node for statement in child.body for node in ast.walk(statement))
            elif child.orelse:
                yield from nodes(ast.Module(child.orelse, []), for_types=False)
        else:
            if not for_types:
                yield child
            yield from nodes(child, for_types=for_types)


def imported(source: str, *, for_types: bool = False) -> set[str]:
    """Modules of the package that a file imports."""
    found = set()
    for node in nodes(ast.parse(source), for_types=for_types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "layershap"}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name their module in full"
            if node.module and node.module.split(".")[0] == "layershap":
                # `from layershap import tasks` is an import of the module tasks.
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found |= {name if name in FILES else node.module for name in names}
    return found


GRAPH = {module: imported(path.read_text(encoding="utf-8")) for module, path in FILES.items()}


def test_imports_are_found_wherever_they_stand():
    source = """
import layershap.masks, os
from layershap import tasks, LayerPruner
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from layershap.pruner import LayerPruner
else:
    from layershap.game import LayerGame
def late():
    try:
        from layershap.report.page import page
    except ImportError:
        from layershap.cli import main
"""
    names = ("masks", "tasks", "game", "report.page", "cli.main")
    assert imported(source) == {"layershap", *(f"layershap.{name}" for name in names)}
    assert imported(source, for_types=True) == {"layershap.pruner"}


def test_every_file_is_in_a_room_that_has_a_floor():
    assert {room_of(module) for module in FILES} == set(ROOMS)
    assert len(set(ROOMS)) == len(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_imports_from_a_room_above(room):
    above = set(ROOMS[ROOMS.index(room) + 1 :])
    arrows = {
        f"{module} -> {target}"
        for module, targets in GRAPH.items()
        if room_of(module) == room
        for target in targets
        if room_of(target) in above
    }
    assert not arrows


@pytest.mark.parametrize("room", ROOMS[:-3])
def test_annotations_name_no_further_room_above(room):
    above = set(ROOMS[ROOMS.index(room) + 1 :])
    named = {
        room_of(target)
        for module, path in FILES.items()
        if room_of(module) == room
        for target in imported(path.read_text(encoding="utf-8"), for_types=True)
    }
    assert named & above <= ANNOTATED.get(room, set())


def test_no_circle_of_files():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")

"""The pages can be followed: their code is run as it stands, in order, on the bundled model."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shlex
import sys
import types
from pathlib import Path

import matplotlib
import pytest
import torch
from transformers import AutoModelForCausalLM

import layershap
from layershap import PruningReport
from layershap.cli import main

matplotlib.use("Agg")

DOCS = Path(__file__).parents[1] / "docs"


def follow(page: str) -> dict[str, object]:
    """Run the page's ``python`` blocks in one namespace and its ``sh`` lines through the command line, in order."""
    # A module of its own, so that what the page defines can be pickled.
    name = page.removesuffix(".md")
    module = sys.modules[name] = types.ModuleType(name)
    names = vars(module)
    for language, code in re.findall(
        r"^```(python|sh)\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL
    ):
        if language == "python":
            exec(compile(code, page, "exec"), names)
            continue
        for line in code.strip().splitlines():
            program, *arguments = shlex.split(line)
            assert program == "layershap"
            assert main(arguments) == 0, line
    return names


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_model_folder_and_a_text_file_to_pruned_folder_report_and_page(here):
    names = follow("getting_started.md")
    for run, folder in (("run", "small"), ("cli-run", "cli-small")):
        report = PruningReport.load(here / run / "report.json")
        (outcome,) = report.outcomes
        assert outcome.removed == report.removal(4).layers
        assert [score.protocol for score in outcome.after.scores] == ["seq128"]
        assert [speed.batch_size for speed in outcome.after.speed] == [1, 8]
        assert (here / run / "report.html").read_text(encoding="utf-8").count("<img") == 4
        assert "model-index" in (here / folder / "README.md").read_text(encoding="utf-8")
    assert (here / "run" / "contributions.png").stat().st_size > 5000

    by_library, by_command = (
        PruningReport.load(here / "run/report.json"),
        PruningReport.load(here / "cli-run/report.json"),
    )
    assert by_command.layers == by_library.layers
    assert by_command.outcomes[0].after.scores == by_library.outcomes[0].after.scores

    ids = torch.arange(40).reshape(1, 40)
    with torch.inference_mode():
        expected = names["small"](ids).logits
        for folder in ("small", "cli-small"):
            assert torch.equal(AutoModelForCausalLM.from_pretrained(here / folder)(ids).logits, expected)


def test_own_parts_plug_in_as_the_page_says(here):
    pruner = follow("extending.md")["pruner"]
    assert pruner.diagnostics_["held_out_r2"] > 0.8
    assert pruner.masks_[:, [0, -1]].all()
    # The page's selector takes the best evaluated set of the size.
    of_size = (~pruner.masks_).sum(axis=1) == 3
    best = pruner.masks_[of_size][pruner.scores_[of_size].argmax()]
    assert pruner.removed_layers(3) == [layer for layer in range(12) if not best[layer]]


def test_docstring_examples():
    attempted = 0
    for module in pkgutil.walk_packages(layershap.__path__, "layershap."):
        if module.name == "layershap.__main__":
            continue
        found = doctest.testmod(importlib.import_module(module.name))
        assert found.failed == 0, module.name
        attempted += found.attempted
    assert attempted > 20

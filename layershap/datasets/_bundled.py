"""The bundled GPT-2, trained on public-domain books by ``scripts/train_tiny_gpt2.py``, and two held-out texts."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from typing import Any

import torch

_DATA = files("layershap.datasets") / "data"


def load_tiny_gpt2(*, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Load the bundled GPT-2: 12 layers, width 160, 5 heads, vocabulary 4,096, context 256, 4.4M parameters.

    It was trained on 12 public-domain books; ``data/tiny_gpt2/training.json`` holds the recipe, its held-out perplexity
    and a unigram model's.

    Parameters
    ----------
    dtype : torch.dtype, default=torch.float32
        Precision of the weights, which are stored in float16.

    Returns
    -------
    model : GPT2LMHeadModel
        Model in evaluation mode, on the CPU.
    tokenizer : PreTrainedTokenizerFast
        Byte-level BPE tokenizer; ``<|endoftext|>`` is BOS and EOS.
    """
    from transformers import AutoTokenizer, GPT2LMHeadModel

    with as_file(_DATA / "tiny_gpt2") as folder:
        model = GPT2LMHeadModel.from_pretrained(folder, dtype=dtype, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model.eval(), tokenizer


def load_calibration_text() -> list[str]:
    """The chapters of Treasure Island (public domain), which the bundled model was not trained on."""
    return _texts("calibration")


def load_evaluation_text() -> list[str]:
    """The chapters of The Time Machine and Alice's Adventures in Wonderland (public domain), held out likewise."""
    return _texts("evaluation")


def _texts(split: str) -> list[str]:
    return list(json.loads((_DATA / "text" / f"{split}.json").read_text(encoding="utf-8")))

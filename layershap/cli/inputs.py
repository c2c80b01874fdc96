"""What commands read: models, texts, and the options that say which."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from layershap.calibration import Calibration
from layershap.checkpoint import RECIPE_FILE, load_pruned
from layershap.datasets import load_tiny_gpt2
from layershap.scoring.perplexity import PERPLEXITY_PROTOCOLS

BUNDLED = "bundled"


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that loads a model."""
    group = parser.add_argument_group("how models are loaded")
    group.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="default: the checkpoint's"
    )
    group.add_argument("--device", default="auto", help="a torch device; default: the GPU if there is one")
    group.add_argument(
        "--device-map", metavar="MAP", help="for models larger than one device: 'auto' lets accelerate place the layers"
    )
    group.add_argument(
        "--layers", metavar="PATH", help="dotted path of the layer list, where it is not found by itself"
    )


def add_calibration_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that fits."""
    group = parser.add_argument_group("calibration")
    group.add_argument(
        "--text", nargs="+", type=Path, required=True, metavar="FILE", help="calibration text: .txt, .json or .jsonl"
    )
    group.add_argument("--seq-len", type=int, default=128, metavar="T", help="tokens per sequence (default: 128)")
    group.add_argument(
        "--n-sequences", type=int, default=10, metavar="S", help="sequences, at even distances (default: 10)"
    )
    group.add_argument(
        "--bos", choices=("none", "text", "sequence"), default="none", help="where a BOS token goes (default: none)"
    )
    group.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")


def read_calibration(arguments: argparse.Namespace, tokenizer: Any) -> Calibration:
    """Calibration data, from the options of `add_calibration_options`."""
    return Calibration.from_texts(
        read_texts(arguments.text),
        tokenizer,
        seq_len=arguments.seq_len,
        n_sequences=arguments.n_sequences,
        bos=arguments.bos,
    )


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that measures models."""
    group = parser.add_argument_group("what is measured")
    group.add_argument("--text", nargs="+", type=Path, metavar="FILE", help="held-out text: .txt, .json or .jsonl")
    group.add_argument(
        "--protocol",
        choices=sorted(PERPLEXITY_PROTOCOLS),
        default="seq128",
        help="of perplexity; figures under different protocols can't be compared (default: seq128)",
    )
    group.add_argument("--eval-sequences", type=int, metavar="N", help="sequences of the text (default: all)")
    group.add_argument(
        "--tasks", nargs="+", default=[], metavar="TASK", help="JSONL files of rows, or lm-evaluation-harness tasks"
    )
    group.add_argument("--limit", type=int, metavar="N", help="questions of each task (default: all)")


def evaluation_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `layershap.evaluate` and `PruningReport.measure` take, from the options of `add_evaluation_options`."""
    return {
        "texts": read_texts(arguments.text) if arguments.text else None,
        "tasks": arguments.tasks,
        "protocol": arguments.protocol,
        "n_sequences": arguments.eval_sequences,
        "limit": arguments.limit,
    }


def load_model(source: str, arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Model, in evaluation mode, and tokenizer.

    Parameters
    ----------
    source : str
        Folder, name on the Hub, or 'bundled'.
    arguments : Namespace
        With the options of `add_model_options`.

    Raises
    ------
    OSError
        There is no such model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype: torch.dtype | None = None if arguments.dtype == "auto" else getattr(torch, arguments.dtype)
    model: Any
    if source == BUNDLED:
        model, tokenizer = load_tiny_gpt2(dtype=dtype or torch.float32)
    else:
        if (Path(source) / RECIPE_FILE).is_file():
            model = load_pruned(source, dtype=dtype)
        else:
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype or "auto", device_map=arguments.device_map)
        tokenizer = AutoTokenizer.from_pretrained(source)
    if getattr(model, "hf_device_map", None) is None:
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        model.to(automatic if arguments.device == "auto" else arguments.device)
    return model.eval(), tokenizer


def read_texts(paths: Sequence[Path]) -> list[str]:
    """Texts of files: .txt is one text, .jsonl a text (or an object with "text") per line, .json a list of texts.

    Raises
    ------
    ValueError
        No text in a file, or rows that hold none.
    """
    texts: list[str] = []
    for path in paths:
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in content.splitlines() if line.strip()]
        elif path.suffix == ".json":
            rows = json.loads(content)
        else:
            rows = [content]
        found = [_text(row) for row in rows] if isinstance(rows, list) else []
        if not any(text.strip() for text in found):
            raise ValueError(
                f"{path} must hold text: plain text, or (.json, .jsonl) a list or lines of strings or of objects with "
                "a 'text' string"
            )
        texts += found
    return texts


def _text(row: object) -> str:
    text = row.get("text") if isinstance(row, dict) else row
    return text if isinstance(text, str) else ""

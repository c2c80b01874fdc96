"""What the benchmarks share: folders, texts, the line that says how a table was made, random models, memory."""

from __future__ import annotations

import argparse
import lzma
import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from layershap import Calibration
from layershap.calibration.packing import evenly as even_indices
from layershap.cli.inputs import check_device_name
from layershap.forward.unmasked import sequence_statistics

HERE = Path(__file__).parent
DATA, MODELS = HERE / "data", HERE / "models"
CACHE = HERE / "cache"
"""Ledgers and records of unfinished runs, which git ignores."""
LENGTH = 128
"""Tokens of a sequence."""


def provenance() -> str:
    """One line: command, date, versions, machine."""
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    script = [sys.argv[0]] if spec is None else ["-m", spec.name]
    return (
        f"`python {' '.join([*script, *sys.argv[1:]])}`, {time.strftime('%Y-%m-%d')}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {machine}"
    )


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def write_between(page: Path, name: str, text: str) -> None:
    """Put text between a page's markers ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``, or at its end."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    before, found, rest = old.partition(begin)
    after = rest.partition(end)[2] if found else "\n"
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")


def print_table(about: str, table: Callable[[], str]) -> None:
    """The command line of a script that prints one table, and has no options but where to."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--write", type=Path, help="a page; between its markers <!-- tables: begin --> and end")
    options = parser.parse_args()
    print_or_write(f"{provenance()}\n\n{table()}", options.write)


def print_or_write(text: str, page: Path | None, name: str = "tables") -> None:
    """Print a script's text, or put it between a page's markers."""
    if page is None:
        print(text)
    else:
        write_between(page, name, text)


def perplexity(model: nn.Module, text: Calibration) -> float:
    """Of a model as it is."""
    found = sequence_statistics(model, text, ("nll",))
    return float(np.exp(found.sums["nll"].sum() / found.counts.sum()))


def packed(name: str) -> str:
    """A text of `data`."""
    with lzma.open(DATA / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
        return file.read()


def wikitext_articles() -> tuple[list[str], list[str]]:
    """Articles of WikiText-2's raw test text in turn: those to calibrate on, and those to test on.

    The validation text at hand is the tokenised form, in which 5% of the words are `<unk>`: layers chosen on it were
    0.11 nats better than others there, and 7% to 17% worse on raw text.
    """
    text = packed("wikitext2-raw-test")
    heads = [found.start() for found in re.finditer(r"^ = [^=].*[^=] = *$", text, re.MULTILINE)]
    articles = [text[start:end] for start, end in zip(heads, [*heads[1:], len(text)], strict=True)]
    return articles[1::2], articles[::2]


def sequences(text: str | list[str], tokenizer: Any, count: int | None) -> Calibration:
    """The first sequences of a text; all of them if no number is given."""
    return Calibration.from_texts(text, tokenizer, seq_len=LENGTH, n_sequences=count)


def evenly(available: int, count: int | None) -> list[int]:
    """Indices at even distances; all of them if no number is given, or more than there are."""
    wanted = available if count is None else min(count, available)
    return even_indices(available, wanted)


def random_llama(
    n_layers: int, width: int, inner: int, heads: int, vocabulary: int, dtype: torch.dtype, device: str
) -> LlamaForCausalLM:
    """A Llama-style model with random weights: they serve for speed."""
    config = LlamaConfig(
        num_hidden_layers=n_layers,
        hidden_size=width,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=vocabulary,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return LlamaForCausalLM(config).to(dtype).eval()


def random_calibration(vocabulary: int, n_sequences: int = 10, seq_len: int = 128) -> Calibration:
    """Random tokens [S, T]."""
    ids = np.random.default_rng(0).integers(0, vocabulary, (n_sequences, seq_len))
    ids_ST = torch.from_numpy(ids)
    return Calibration(ids_ST, ids_ST.clone())


class PeakMemory:
    """Peak memory of this process since `reset`, in MiB: resident (Linux), or allocated on the GPU."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew; what is held now is the baseline."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self._baseline = torch.cuda.memory_allocated() / 2**20
        else:
            Path("/proc/self/clear_refs").write_text("5")
            self._baseline = self._status("VmRSS")

    def above_baseline(self) -> float:
        """MiB."""
        peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else self._status("VmHWM")
        return peak - self._baseline

    @staticmethod
    def _status(name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def device(name: str) -> str:
    """A torch device that can be used here, for the command line."""
    try:
        check_device_name(name)
    except ValueError as error:
        message = f"must be a torch device that can be used here, got {name!r}: {error}"
        raise argparse.ArgumentTypeError(message) from error
    return name


def processor() -> str:
    """The name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

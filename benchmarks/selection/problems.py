"""The models and texts that `selection.py` measures on: trained weights, three calibration sets each, two test sets.

Calibration and test sequences are drawn from the same text, apart from each other, so that a method is measured by how
it chooses. The second test set is of other texts: what a choice is worth where the calibration text is not typical.

Shapes: S sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.common import LENGTH, MODELS
from layershap import Calibration
from layershap.datasets import load_calibration_text, load_evaluation_text, load_tiny_gpt2

SEEDS = (0, 1, 2)
SEQUENCES, MORE_SEQUENCES, TEST_SEQUENCES = 32, 128, 128


@dataclass(frozen=True)
class Problem:
    """A model, its calibration sets (one per seed; `more` holds each with more sequences of the same text), its test
    sets (`other`: other texts, where there are any), and whether all 2^L coalitions can be enumerated.
    """

    name: str
    title: str
    model: Any
    calibrations: tuple[Calibration, ...]
    more: tuple[Calibration, ...]
    test: Calibration
    other: Calibration | None
    n_layers: int
    enumerable: bool

    @property
    def max_remove(self) -> int:
        """The most layers removed: two thirds."""
        return 2 * self.n_layers // 3


@dataclass(frozen=True)
class Drawn:
    """Sets of sequences of one text, drawn without replacement; each of `more` holds its seed's calibration set."""

    calibrations: tuple[Calibration, ...]
    more: tuple[Calibration, ...]
    test: Calibration


def drawn(stream: Calibration, source: str) -> Drawn:
    sizes = [SEQUENCES] * len(SEEDS) + [TEST_SEQUENCES] + [MORE_SEQUENCES - SEQUENCES] * len(SEEDS)
    if stream.n_sequences < sum(sizes):
        raise ValueError(f"{source} has {stream.n_sequences} sequences, {sum(sizes)} are needed")
    order = torch.from_numpy(np.random.default_rng(0).permutation(stream.n_sequences)[: sum(sizes)])
    parts = order.split(sizes)
    first, test, further = parts[: len(SEEDS)], parts[len(SEEDS)], parts[len(SEEDS) + 1 :]

    def part(rows: torch.Tensor) -> Calibration:
        return Calibration(stream.ids_ST[rows], stream.ids_ST[rows].clone(), {"source": source})

    more = tuple(part(torch.cat(pair)) for pair in zip(first, further))
    return Drawn(tuple(part(rows) for rows in first), more, part(test))


def on_books(name: str, title: str, model: Any, tokenizer: Any, *, enumerable: bool) -> Problem:
    """Calibration and test on Treasure Island; the other texts are The Time Machine and Alice in Wonderland."""
    stream = Calibration.from_texts(load_calibration_text(), tokenizer, seq_len=LENGTH, n_sequences=None)
    others = Calibration.from_texts(load_evaluation_text(), tokenizer, seq_len=LENGTH, n_sequences=None)
    text = drawn(stream, "Treasure Island")
    other = drawn(others, "The Time Machine, Alice in Wonderland").test
    n_layers = model.config.num_hidden_layers
    return Problem(name, title, model, text.calibrations, text.more, text.test, other, n_layers, enumerable)


def gpt2() -> Problem:
    model, tokenizer = load_tiny_gpt2()
    return on_books("gpt2", "GPT-2, 12 layers (bundled)", model, tokenizer, enumerable=True)


def stories() -> Problem:
    """The published stories260K, on stories that it tells itself (seeded): it knows no other text."""
    folder = Path(__file__).parents[2] / "tests" / "data" / "stories260K"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(0)
    start = torch.full((len(SEEDS) * MORE_SEQUENCES + TEST_SEQUENCES, 1), int(model.config.bos_token_id))
    told = model.generate(start, do_sample=True, top_k=0, min_new_tokens=LENGTH, max_new_tokens=LENGTH)
    ids_ST = told[:, 1:].contiguous()
    text = drawn(Calibration(ids_ST, ids_ST.clone(), {}), "sampled from the model")
    title = "stories260K, Llama, 5 layers"
    return Problem("stories", title, model, text.calibrations, text.more, text.test, None, 5, True)


def trained(name: str, title: str, *, enumerable: bool) -> Problem:
    """A model that `scripts/train_benchmark_models.py` has trained."""
    folder = MODELS / name
    if not (folder / "training.json").exists():
        raise FileNotFoundError(
            f"{name} is not trained yet; python scripts/train_benchmark_models.py {name} trains it (within an hour)"
        )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return on_books(name, title, model, AutoTokenizer.from_pretrained(folder), enumerable=enumerable)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "gpt2": gpt2,
    "stories": stories,
    "llama24": lambda: trained("llama24", "Llama, 24 layers", enumerable=False),
    "llama32": lambda: trained("llama32", "Llama, 32 layers", enumerable=False),
    "mamba2": lambda: trained("mamba2", "Mamba-2, 10 layers", enumerable=True),
}

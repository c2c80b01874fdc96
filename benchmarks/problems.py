"""The models and texts that `selection.py` measures on: trained weights, three calibration sets each, one test set.

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

from layershap import Calibration
from layershap.datasets import load_calibration_text, load_evaluation_text, load_tiny_gpt2

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
SEQUENCES, TEST_SEQUENCES, LENGTH = 10, 32, 128


@dataclass(frozen=True)
class Problem:
    """A model, its calibration sets (one per seed), its test set, and whether all 2^L coalitions can be enumerated."""

    name: str
    title: str
    model: Any
    calibrations: tuple[Calibration, ...]
    test: Calibration
    n_layers: int
    enumerable: bool


def calibration_set(stream: Calibration, seed: int) -> Calibration:
    """`SEQUENCES` sequences drawn without replacement from all those of a text."""
    rows = np.random.default_rng(seed).permutation(stream.n_sequences)[:SEQUENCES]
    ids_ST = stream.ids_ST[torch.from_numpy(np.sort(rows))]
    return Calibration(ids_ST, ids_ST.clone(), {**stream.provenance, "drawn_with_seed": seed})


def on_books(name: str, title: str, model: Any, tokenizer: Any, *, enumerable: bool) -> Problem:
    """Calibration on Treasure Island, test on The Time Machine and Alice's Adventures in Wonderland."""
    stream = Calibration.from_texts(load_calibration_text(), tokenizer, seq_len=LENGTH, n_sequences=None)
    test = Calibration.from_texts(load_evaluation_text(), tokenizer, seq_len=LENGTH, n_sequences=TEST_SEQUENCES)
    calibrations = tuple(calibration_set(stream, seed) for seed in SEEDS)
    return Problem(name, title, model, calibrations, test, model.config.num_hidden_layers, enumerable)


def gpt2() -> Problem:
    model, tokenizer = load_tiny_gpt2()
    return on_books("gpt2", "GPT-2, 12 layers (bundled)", model, tokenizer, enumerable=True)


def stories() -> Problem:
    """The published stories260K, on stories that it tells itself (seeded): it knows no other text."""
    folder = HERE.parent / "tests" / "data" / "stories260K"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(0)
    wanted = len(SEEDS) * SEQUENCES + TEST_SEQUENCES
    start = torch.full((wanted, 1), int(model.config.bos_token_id))
    told = model.generate(start, do_sample=True, top_k=0, min_new_tokens=LENGTH, max_new_tokens=LENGTH)
    ids_ST = told[:, 1:].contiguous()
    parts = [ids_ST[i : i + SEQUENCES] for i in range(0, len(SEEDS) * SEQUENCES, SEQUENCES)]
    calibrations = [Calibration(part, part.clone(), {"source": "sampled from the model"}) for part in parts]
    rest = ids_ST[-TEST_SEQUENCES:]
    test = Calibration(rest, rest.clone(), {"source": "sampled from the model"})
    return Problem("stories", "stories260K, Llama, 5 layers", model, tuple(calibrations), test, 5, True)


def trained(name: str, title: str, *, enumerable: bool) -> Problem:
    """A model that `scripts/train_benchmark_models.py` has trained."""
    folder = HERE / "models" / name
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
    "mamba2": lambda: trained("mamba2", "Mamba-2, 10 layers", enumerable=True),
}

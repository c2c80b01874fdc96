"""What fits of the bundled models found, kept as files: a change of structure must not change a bit of it.

    python -m tests.golden          # writes the files anew; a change that means to change results says why in CHANGELOG

Masks, sets of layers and what the ledger asks for are the same everywhere; the last bits of scores depend on the
machine, so they are compared to the bit on the machine that wrote the files and to 1e-5 elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import layershap
from layershap import (
    Calibration,
    Greedy,
    LayerPruner,
    PairwiseRidge,
    ShapleyRanking,
    ShapleyValues,
    StratifiedSampler,
    StratifiedValues,
    compare,
)
from layershap.baselines import SLEB, ShortenedLlama, ShortGPT
from layershap.datasets import load_calibration_text, load_tiny_gpt2
from layershap.tasks import multiple_choice
from tests.helpers.models import STORIES

FOLDER = Path(__file__).parent


def machine() -> str:
    """What the last bits of a score depend on, as far as can be told."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return f"{processor}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"


def gpt2(n_sequences: int, seq_len: int = 64) -> tuple[Any, Any, Calibration]:
    """The bundled model and text."""
    model, tokenizer = load_tiny_gpt2()
    text = load_calibration_text()
    return model, tokenizer, Calibration.from_texts(text, tokenizer, seq_len=seq_len, n_sequences=n_sequences)


def stories() -> tuple[Any, Any, Calibration]:
    """The published checkpoint of the tests, and three sentences."""
    model = AutoModelForCausalLM.from_pretrained(STORIES).eval()
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    text = "Once upon a time there was a little girl. She liked to play in the park with her dog. " * 12
    return model, tokenizer, Calibration.from_texts(text, tokenizer, seq_len=32, n_sequences=6)


def fitted(pruner: LayerPruner, model: Any, data: Any) -> dict[str, Any]:
    """All numbers of a fit; its ledger's rows as one digest."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "masks.jsonl"
        pruner.set_params(ledger=ledger).fit(model, data)
        ledgers = sorted(Path(folder).glob("masks.jsonl*"))
        rows = b"".join(b"".join(path.read_bytes().splitlines(keepends=True)[1:]) for path in ledgers)
    return {
        "masks": ["".join("01"[int(kept)] for kept in mask) for mask in pruner.masks_],
        "scores": numbers(pruner.scores_),
        "baseline_score": numbers([pruner.baseline_score_])[0],
        "contributions": numbers(pruner.contributions_),
        "removal_order": pruner.removal_order_.tolist(),
        "removal_scores": numbers(pruner.removal_scores_),
        "sets": [np.asarray(pruner.removed_layers(n)).tolist() for n in range(1, pruner.max_remove_ + 1)],
        "veto_players": pruner.veto_players_.tolist(),
        "ledger_rows_sha256": hashlib.sha256(rows).hexdigest(),
        "n_ledgers": len(ledgers),
    }


def numbers(values: Any) -> list[str]:
    """Every bit, readable as `float.fromhex`."""
    return [float(value).hex() for value in np.asarray(values, dtype=np.float64)]


def default_search() -> dict[str, Any]:
    model, _, text = gpt2(40)
    return fitted(LayerPruner(max_remove=4, random_state=0), model, text)


def ranking() -> dict[str, Any]:
    model, _, text = gpt2(10)
    pruner = LayerPruner(
        sampler=StratifiedSampler(replace=True),
        surrogate=PairwiseRidge(),
        selector=ShapleyRanking(),
        n_masks=80,
        values=StratifiedValues(keep_veto=False, unbiased=False),
        random_state=1,
    )
    return fitted(pruner, model, text)


def greedy() -> dict[str, Any]:
    model, _, text = gpt2(10)
    return fitted(LayerPruner(max_remove=3, selector=Greedy(), confidence=1.0, random_state=0), model, text)


def sublayers() -> dict[str, Any]:
    model, _, text = stories()
    return fitted(LayerPruner(max_remove=3, granularity="sublayer", random_state=0), model, text)


def shapley_weights() -> dict[str, Any]:
    model, _, text = stories()
    return fitted(LayerPruner(max_remove=2, values=ShapleyValues(), random_state=0), model, text)


def task() -> dict[str, Any]:
    model, tokenizer, _ = gpt2(1)
    rows = [
        {"query": "The captain gave the", "choices": [" order", " seventeen", " of"], "gold": 0},
        {"query": "We went on board the", "choices": [" ship", " slowly", " was"], "gold": 0},
        {"query": "He looked at me and", "choices": [" table", " said", " the"], "gold": 1},
        {"query": "There was no", "choices": [" doubt", " went", " are"], "gold": 0},
    ] * 3
    return fitted(LayerPruner(max_remove=2, random_state=0), model, multiple_choice(rows, tokenizer))


def comparison() -> dict[str, Any]:
    model, _, text = gpt2(10)
    methods = {"one-shot": ShortenedLlama(), "ShortGPT": ShortGPT(), "SLEB": SLEB()}
    found = compare(model, text, text, methods, [1, 3])
    return {
        "sets": {f"{choice.method} {choice.n_remove}": list(choice.layers) for choice in found.choices},
        "scores": numbers([choice.perplexity for choice in found.choices]),
        "masks": {method: cost.masks for method, cost in found.costs.items()},
        "layer_runs": {method: cost.layer_runs for method, cost in found.costs.items()},
    }


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "default_search": default_search,
    "ranking": ranking,
    "greedy": greedy,
    "sublayers": sublayers,
    "shapley_weights": shapley_weights,
    "task": task,
    "comparison": comparison,
}


def main() -> None:
    torch.set_num_threads(1)
    for name, case in CASES.items():
        record = {"machine": machine(), "layershap": layershap.__version__, **case()}
        (FOLDER / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

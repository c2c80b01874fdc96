"""What the training scripts share: cleaned books, token streams, perplexity and one resumable training loop."""

from __future__ import annotations

import json
import lzma
import math
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

CALIBRATION_BOOKS = ("Robert_Louis_Stevenson_Treasure_Island",)
EVALUATION_BOOKS = ("H_G_Wells_The_Time_Machine", "Lewis_Carroll_Alice_s_Adventures_in_Wonderland")
TRAINING_BOOKS = Path(__file__).parent.parent / "benchmarks" / "data" / "books.jsonl.xz"


def chapters(path: Path) -> list[str]:
    """The chapters of one Markdown book as plain text: no title block, no emphasis marks, paragraphs on one line."""
    body = path.read_text(encoding="utf-8").split("-------", 1)[1]
    texts = []
    for part in re.split(r"^#+ .*$", body, flags=re.MULTILINE):
        paragraphs = re.split(r"\n\s*\n", part)
        cleaned = [re.sub(r"\s+", " ", re.sub(r"[*_\\]+", "", p)).strip() for p in paragraphs]
        text = "\n".join(p for p in cleaned if p)
        if len(text) > 500:
            texts.append(text)
    return texts


def read_books(folder: Path) -> dict[str, list[str]]:
    """Title -> chapters of every Markdown book in a folder, sorted by title; the held-out books must be there."""
    books = {path.stem: chapters(path) for path in sorted(folder.glob("*.md"))}
    missing = set(CALIBRATION_BOOKS + EVALUATION_BOOKS) - set(books)
    if missing:
        raise SystemExit(f"books not found in {folder}: {sorted(missing)}")
    return books


def training_texts(books: dict[str, list[str]]) -> list[str]:
    """The chapters of the books that are not held out."""
    return [text for name, texts in books.items() if name not in CALIBRATION_BOOKS + EVALUATION_BOOKS for text in texts]


def load_training_texts(path: Path = TRAINING_BOOKS) -> list[str]:
    """The chapters of the training books shipped with the benchmarks (``scripts/pack_books.py`` made the file)."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        return [text for line in lines for text in json.loads(line)["chapters"]]


def encode(tokenizer: Any, texts: list[str]) -> np.ndarray:
    """One stream of token ids, with BOS where a chapter starts."""
    ids: list[int] = []
    for text in texts:
        ids.append(tokenizer.bos_token_id)
        ids.extend(tokenizer(text, add_special_tokens=False)["input_ids"])
    return np.asarray(ids, dtype=np.int64)


@torch.inference_mode()
def perplexity(model: Any, ids: np.ndarray, length: int = 128, batch: int = 64) -> float:
    """Perplexity over consecutive sequences of `length` tokens: mean token NLL, exponentiated once."""
    blocks = torch.from_numpy(ids[: len(ids) // length * length].reshape(-1, length))
    nll, count = 0.0, 0
    for chunk in blocks.split(batch):
        logits = model(chunk, use_cache=False).logits[:, :-1].float()
        nll += torch.nn.functional.cross_entropy(logits.flatten(0, 1), chunk[:, 1:].flatten(), reduction="sum").item()
        count += chunk[:, 1:].numel()
    return math.exp(nll / count)


def unigram_perplexity(train: np.ndarray, test: np.ndarray, vocab: int) -> float:
    """Perplexity on `test` of token frequencies (plus one) counted on `train`."""
    counts = np.bincount(train, minlength=vocab) + 1.0
    return float(np.exp(-np.log(counts / counts.sum())[test].mean()))


@dataclass(frozen=True)
class Recipe:
    """AdamW with a trapezoidal schedule: 100 steps of warm-up, a plateau, a linear decay over the last 40%."""

    steps: int
    lr: float
    batch: int
    length: int
    seed: int = 0
    bf16: bool = False

    def scale(self, step: int) -> float:
        """Learning rate at `step` over the peak's."""
        return min(1.0, (step + 1) / 100, (self.steps - step) / (0.4 * self.steps))


def train(model: Any, ids: np.ndarray, recipe: Recipe, checkpoint: Path) -> dict[str, Any]:
    """Train `model` in place on random windows of `ids`, saving to `checkpoint` every 200 steps and resuming from it.

    Returns
    -------
    dict
        The recipe, with the seconds spent over all runs, the number of training tokens and of parameters.
    """
    rng = np.random.default_rng(recipe.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    first, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        rng.bit_generator.state = state["rng"]
        first, spent = state["step"], state["seconds"]
        print(f"resuming at step {first}", flush=True)
    data = torch.from_numpy(ids)
    start = time.time() - spent
    model.train()
    for step in range(first, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * recipe.scale(step)
        offsets = rng.integers(0, len(data) - recipe.length, recipe.batch)
        tokens = torch.stack([data[o : o + recipe.length] for o in offsets])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.bf16):
            logits = model(tokens, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.3f} seconds {time.time() - start:.0f}", flush=True)
        if step % 200 == 199:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            partial = checkpoint.with_suffix(".partial")
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "rng": rng.bit_generator.state,
                    "step": step + 1,
                    "seconds": time.time() - start,
                },
                partial,
            )
            os.replace(partial, checkpoint)
    model.eval()
    return {
        **asdict(recipe),
        "training_tokens": len(ids),
        "parameters": model.num_parameters(),
        "seconds": round(time.time() - start),
        "torch": torch.__version__,
    }

"""Train the models that `benchmarks/selection/selection.py` needs and the repository does not ship.

    python scripts/train_benchmark_models.py llama24      # 24 layers, about 40 minutes on one core
    python scripts/train_benchmark_models.py llama32      # 32 layers, about 40 minutes
    python scripts/train_benchmark_models.py mamba2       # 10 layers, about 20 minutes

The training text is `benchmarks/data/books.jsonl.xz` (12 books in the public domain), the tokenizer the bundled one.
Written to `OUT/NAME` (`benchmarks/models/NAME`), with the recipe and the measured perplexity in `training.json`. A run
that is interrupted goes on from its last checkpoint (every 200 steps) when the command is given again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from training import Recipe, encode, load_training_texts, perplexity, train, unigram_perplexity
from transformers import LlamaConfig, LlamaForCausalLM, Mamba2Config, Mamba2ForCausalLM

from layershap.datasets import load_evaluation_text, load_tiny_gpt2

MODELS = Path(__file__).parent.parent / "benchmarks" / "models"


def llama24(vocab: int, bos: int) -> tuple[Any, Recipe]:
    """Deep and narrow, so that layers interact: 24 layers, D = 128, 5.2M parameters."""
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=128,
        intermediate_size=340,
        num_hidden_layers=24,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=bos,
    )
    return LlamaForCausalLM(config), Recipe(steps=6000, lr=3e-3, batch=8, length=128, bf16=True)


def llama32(vocab: int, bos: int) -> tuple[Any, Recipe]:
    """As deep as a 7B model: 32 layers, D = 96, 3.9M parameters."""
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=32,
        num_attention_heads=3,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=bos,
    )
    return LlamaForCausalLM(config), Recipe(steps=5000, lr=3e-3, batch=8, length=128, bf16=True)


def mamba2(vocab: int, bos: int) -> tuple[Any, Recipe]:
    """A state-space model: 10 layers, D = 96. (Mamba-2, whose scan runs in chunks on a CPU; Mamba's runs by token.)"""
    config = Mamba2Config(
        vocab_size=vocab,
        hidden_size=96,
        num_hidden_layers=10,
        state_size=16,
        num_heads=6,
        head_dim=32,
        n_groups=1,
        chunk_size=32,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=bos,
        pad_token_id=bos,
    )
    return Mamba2ForCausalLM(config), Recipe(steps=6000, lr=4e-3, batch=8, length=128)


BUILDERS = {"llama24": llama24, "llama32": llama32, "mamba2": mamba2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=BUILDERS)
    parser.add_argument("--out", type=Path, default=MODELS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, help="fewer of them for a quicker, weaker model")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    _, tokenizer = load_tiny_gpt2()
    torch.manual_seed(0)
    model, recipe = BUILDERS[args.name](len(tokenizer), tokenizer.bos_token_id)
    recipe = replace(recipe, steps=args.steps or recipe.steps)
    train_ids, test_ids = encode(tokenizer, load_training_texts()), encode(tokenizer, load_evaluation_text())
    unigram = unigram_perplexity(train_ids, test_ids, len(tokenizer))
    print(f"{args.name}: {model.num_parameters()} parameters, {len(train_ids)} training tokens", flush=True)

    folder = args.out / args.name
    record = train(model, train_ids, recipe, folder / "checkpoint.pt")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {
        "evaluation_perplexity": round(perplexity(model, test_ids), 2),
        "unigram_perplexity": round(unigram, 2),
        "protocol": "128-token sequences of the evaluation books, BOS only where a chapter starts",
        **record,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()

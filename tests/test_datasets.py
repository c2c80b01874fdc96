"""The bundled model is really trained, and loads without a network."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import pytest
import torch

from layershap import Calibration, LayerGame
from layershap.datasets import load_evaluation_text, load_tiny_gpt2, tiny_random

DATA = files("layershap.datasets") / "data"


def test_the_stated_perplexity_is_the_models(gpt2):
    """The protocol of training.json, up to where chapters start: 128-token sequences over the evaluation books."""
    model, tokenizer = gpt2
    record = json.loads((DATA / "tiny_gpt2" / "training.json").read_text())
    evaluation = Calibration.from_texts(load_evaluation_text(), tokenizer, n_sequences=100, bos="text")
    statistics = LayerGame(model, evaluation).statistics(np.ones((1, 12), dtype=bool))
    perplexity = np.exp(statistics.sums["nll"].sum() / statistics.counts.sum())
    assert perplexity == pytest.approx(record["evaluation_perplexity"], rel=0.1)
    assert perplexity < record["unigram_perplexity"] / 5


def test_size_and_shape(gpt2):
    assert (DATA / "tiny_gpt2" / "model.safetensors").stat().st_size <= 10_000_000
    model, tokenizer = gpt2
    assert len(model.transformer.h) == 12
    assert model.dtype == torch.float32
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.decode(tokenizer("It was a truth.")["input_ids"]) == "It was a truth."
    assert load_tiny_gpt2(dtype=torch.float16)[0].dtype == torch.float16


def test_tiny_random_is_seeded():
    a, b, c = tiny_random("llama", seed=1), tiny_random("llama", seed=1), tiny_random("llama", seed=2)
    ids = torch.arange(10)[None]
    with torch.inference_mode():
        assert torch.equal(a(ids).logits, b(ids).logits)
        assert not torch.equal(a(ids).logits, c(ids).logits)

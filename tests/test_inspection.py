"""`inspect` tells what the layers are, what they weigh, which can go and which forward serves."""

from __future__ import annotations

import pytest

from layershap import LayerGame, inspect, remove_layers

from .architectures.build import build, token_ids
from .helpers.models import load_stories


def test_inspect():
    model = load_stories()
    found = inspect(model)
    assert (found.path, found.n_layers) == ("model.layers", 5)
    assert found.n_parameters == sum(p.numel() for p in model.parameters())
    pruned = remove_layers(model, [0])
    assert found.layers[0].n_parameters == found.n_parameters - sum(p.numel() for p in pruned.parameters())
    assert found.layers[0].n_bytes == 4 * found.layers[0].n_parameters
    assert len(str(found).splitlines()) == 4 + found.n_layers  # title, headings, rule; the forward below


@pytest.mark.parametrize(("model_type", "forward"), [("llama", "fused"), ("rwkv", "plain"), ("xlnet", "none")])
def test_inspect_names_the_forward_that_serves(model_type, forward):
    model = build(model_type)
    found = inspect(model)
    assert found.forward == forward
    assert bool(found.forward_note) == (forward != "fused")
    assert f"forward for masked models: {forward}" in str(found)
    if forward != "none":
        with LayerGame(model, token_ids()) as game:
            assert game.path == forward


def test_inspect_names_the_kinds_and_the_unremovable():
    gemma = inspect(build("gemma4_text"))
    assert [layer.mixer for layer in gemma.layers][:2] == ["sliding_attention", "full_attention"]
    assert [layer.index for layer in gemma.layers if not layer.removable] == [2, 3]
    assert "shared KV" in str(gemma)
    assert {layer.mixer for layer in inspect(build("mamba")).layers} == {"mamba"}
    deepseek = inspect(build("deepseek_v3"))
    assert [layer.feed_forward for layer in deepseek.layers] == ["mlp"] * 2 + ["moe"] * 4
    assert [layer.feed_forward for layer in inspect(build("gpt2")).layers] == ["mlp"] * 6


def test_inspect_describes_sublayers():
    model = load_stories()
    found, layers = inspect(model, granularity="sublayer"), inspect(model)
    assert [part.name for part in found.layers][:3] == ["0.mixer", "0.feed_forward", "1.mixer"]
    assert (found.layers[0].mixer, found.layers[0].feed_forward) == ("attention", "none")
    assert (found.layers[1].mixer, found.layers[1].feed_forward) == ("none", "mlp")
    norms = 2 * model.config.hidden_size
    parts = found.layers[0].n_parameters + found.layers[1].n_parameters
    assert parts + norms == layers.layers[0].n_parameters

"""State-space, recurrent and hybrid models from fit to reload, on tiny random models of each family."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from layershap import LayerGame, LayerPruner, ShapleyRanking, load_pruned, save_pruned, skip_layers
from layershap.baselines import LastLayers
from layershap.exceptions import CheckpointWarning, SurrogateQualityWarning
from layershap.selection.validity import with_one_kept
from layershap.surgery import remove_layers
from layershap.utilities import NegativeLogLikelihood

from .architectures.build import build, token_ids
from .architectures.matrix import difference, generates_with_cache, logits

FAMILIES = [
    "mamba", "mamba2", "falcon_mamba", "rwkv", "recurrent_gemma", "xlstm", "jamba", "bamba", "zamba", "zamba2",
    "nemotron_h", "granitemoehybrid", "lfm2", "qwen3_next",
]  # fmt: skip
ATTENTION = {"jamba": [1, 4], "lfm2": [1, 4], "zamba2": [2, 4, 6]}
pytestmark = pytest.mark.filterwarnings("ignore::layershap.exceptions.SurrogateQualityWarning")


@pytest.mark.parametrize("model_type", FAMILIES)
def test_fit_transform_generate_reload(model_type, tmp_path):
    model = build(model_type)
    pruner = LayerPruner(n_masks=16, max_remove=2, random_state=0).fit(model, token_ids(tokens=10))
    if model_type == "rwkv":
        assert not pruner.removable_[0]
    removed = pruner.removed_layers(2)
    with skip_layers(model, removed):
        expected = logits(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        small = pruner.transform(model, n_remove=2)

    # rwkv's state is rescaled by loop position, and its layer norm's epsilon is not rescaled with it.
    assert difference(logits(small), expected) <= (1e-3 if model_type == "rwkv" else 1e-6)
    assert generates_with_cache(model)
    assert generates_with_cache(small)
    if any(issubclass(entry.category, CheckpointWarning) for entry in caught):
        again = load_pruned(save_pruned(small, tmp_path))
    else:
        small.save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert difference(logits(again), logits(small)) <= 1e-6


@pytest.mark.parametrize("model_type", ATTENTION)
def test_a_hybrid_keeps_an_attention_layer_whatever_was_chosen(model_type):
    """Make the attention layers the worst by far, so that every ranking would drop them first."""
    model = build(model_type)
    attention = ATTENTION[model_type]
    with LayerGame(model, token_ids(tokens=10)) as game:
        assert game.keep_one_of == (tuple(attention),)
    values = np.where(np.isin(np.arange(game.n_players), attention), -1.0, 1.0) + 0.01 * np.arange(game.n_players)
    removable = np.ones(game.n_players, dtype=bool)
    for n_remove in range(1, game.n_players):
        ranked = np.argsort(values)[:n_remove]
        removed = with_one_kept(ranked, game.keep_one_of, values, removable)
        assert len(removed) == n_remove
        assert not set(attention) <= set(removed)
        if n_remove < len(attention):
            assert sorted(ranked) == list(removed)
        else:
            assert attention[-1] not in removed
        if n_remove in (len(attention), game.n_players - 1):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CheckpointWarning)
                assert torch.isfinite(logits(remove_layers(model, removed))).all()


def test_baselines_keep_an_attention_layer_too():
    model = build("lfm2")
    baseline = LastLayers().fit(model)
    assert baseline.removed_layers(4) == [2, 3, 4, 5]
    assert baseline.removed_layers(5) == [0, 2, 3, 4, 5]
    assert len(baseline.transform(model, n_remove=5).model.layers) == 1


def test_more_than_the_groups_allow_cannot_be_removed():
    values, removable = np.arange(4.0), np.array([True, True, True, False])
    assert list(with_one_kept([0, 1], [(0, 1)], values, removable)) == [0, 2]
    with pytest.raises(ValueError, match="at most 2 can"):
        with_one_kept([0, 1, 2], [(0, 1)], values, removable)


@pytest.mark.parametrize("selector", [None, ShapleyRanking()])
def test_the_pruner_never_chooses_what_surgery_refuses(selector):
    model = build("lfm2")
    with torch.no_grad():
        for index in ATTENTION["lfm2"]:
            model.model.layers[index].self_attn.out_proj.weight.zero_()
            model.model.layers[index].feed_forward.w2.weight.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SurrogateQualityWarning)
        pruner = LayerPruner(selector=selector, max_remove=5, random_state=0, utility=NegativeLogLikelihood())
        pruner.fit(model, token_ids())
    for n_remove in range(1, 6):
        assert len(pruner.transform(model, n_remove=n_remove).model.layers) == 6 - n_remove

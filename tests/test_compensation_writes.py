"""What writes to the residual stream, in several families, and scaling it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layershap import Calibration, LayerGame, LayerPruner, find_layers, remove_layers
from layershap.compensation import (
    LinearRefit,
    Removal,
    Rescale,
    compensation_record,
    layer_scales,
)
from layershap.compensation.gaps import gaps_of
from layershap.compensation.held_out import split
from layershap.compensation.layerwise import quiet
from layershap.compensation.rescale import fold, multiplied
from layershap.compensation.writes import WriteFinder
from layershap.datasets import load_calibration_text, load_tiny_gpt2
from layershap.exceptions import LedgerMismatchError, UnsupportedModelError
from layershap.game.players import GameModel
from layershap.masks import without
from layershap.utilities import NegativeLogLikelihood

from .architectures.build import build
from .helpers.compensation import compensated, loss, random_text
from .helpers.surgery import logits, state


@pytest.fixture(scope="module")
def text(gpt2):
    return Calibration.from_texts(load_calibration_text(), gpt2[1], seq_len=64, n_sequences=48)


def writes(model, layer):
    with quiet(model):
        return [(write.name, write.multiplier) for write in WriteFinder(model, find_layers(model)).of(layer)]


def test_writes_are_found_by_what_they_compute(gpt2, stories):
    assert writes(gpt2[0], 3) == [("attn.c_proj", 1.0), ("mlp.c_proj", 1.0)]
    assert writes(stories[0], 1) == [("self_attn.o_proj", 1.0), ("mlp.down_proj", 1.0)]


@pytest.mark.parametrize(
    ("model_type", "names"),
    [
        ("gemma2", ["post_attention_layernorm", "post_feedforward_layernorm"]),
        ("olmo2", ["post_attention_layernorm", "post_feedforward_layernorm"]),
        ("gpt_neox", ["attention.dense", "mlp.dense_4h_to_h"]),
        ("mamba", ["mixer.out_proj"]),
    ],
)
def test_writes_of_other_families(model_type, names):
    found = writes(build(model_type), 1)
    assert [name for name, _ in found] == names
    assert [multiplier for _, multiplier in found] == [1.0] * len(names)


@pytest.mark.parametrize("model_type", ["glm4", "bloom", "recurrent_gemma", "llama"])
def test_half_precision_finds_the_same_writes(model_type):
    """A thousandth of a norm's output in the roundings is no write."""
    model = build(model_type)
    layers = range(len(find_layers(model)))
    expected = [[name for name, _ in writes(model, layer)] for layer in layers]
    half = model.to(torch.bfloat16)
    assert [[name for name, _ in writes(half, layer)] for layer in layers] == expected
    remove_layers(half, [2], check=False, compensation=Rescale(), calibration=random_text(half))


def test_a_residual_multiplier_is_measured():
    model = build("granite")
    multiplier = model.config.residual_multiplier
    found = writes(model, 1)
    assert [name for name, _ in found] == ["self_attn.o_proj", "mlp.down_proj"]
    assert [value for _, value in found] == pytest.approx([multiplier] * 2, rel=1e-3)


def test_routed_experts_are_scaled_by_their_last_matrices_and_not_refitted():
    model = build("mixtral")
    with quiet(model):
        scalings = WriteFinder(model, find_layers(model)).scalings(1)
    assert [(scaling.module, scaling.parameters) for scaling in scalings] == [
        ("self_attn.o_proj", ("weight",)),
        ("mlp.experts", ("down_proj",)),
    ]
    with pytest.raises(UnsupportedModelError, match="must be a linear layer to be refitted, it is a MixtralExperts"):
        remove_layers(model, [1], compensation=LinearRefit(), calibration=random_text(model))


def test_routed_experts_are_scaled_with_the_biases_of_their_last_matrices():
    model = build("gpt_oss")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_bias"):
                parameter.normal_(0, 0.1)
    with quiet(model):
        experts = WriteFinder(model, find_layers(model)).scalings(1)[-1]
    assert (experts.module, experts.parameters) == ("mlp.experts", ("down_proj", "down_proj_bias"))


def test_layers_that_read_what_earlier_ones_computed_are_refused():
    """Layer 4 shares the keys and values of an earlier layer."""
    model = build("gemma4_text")
    with quiet(model):
        finder = WriteFinder(model, find_layers(model))
        with pytest.raises(UnsupportedModelError, match="can't be run without the layers before it"):
            finder.of(4)


# -- Rescale ---------------------------------------------------------------------------------------------------------


def test_scales_multiply_to_the_ratio_over_a_gap(text):
    model = load_tiny_gpt2()[0]
    scales = layer_scales(model, find_layers(model), text)
    with torch.inference_mode():
        states = model(text.ids_ST, output_hidden_states=True, use_cache=False).hidden_states
    means = [float(hidden.double().abs().mean()) for hidden in states[:-1]]  # the last one is normalised
    assert scales[:-1] == pytest.approx(np.divide(means[1:], means[:-1]), rel=1e-5)


@pytest.mark.parametrize("which", ["gpt2", "stories", "gemma2", "granite", "mixtral"])
def test_folding_is_the_hooked_model(request, which, gpt2, stories, text, stories_calibration):
    """Every write after a gap is divided; nothing else changes, tied embeddings included."""
    model, calibration, removed = {
        "gpt2": (gpt2[0], text, [1, 2, 3, 4]),
        "stories": (stories[0], stories_calibration, [1, 3]),
    }.get(which, (None, None, [1]))
    if model is None:
        model = build(which)
        calibration = random_text(model)
    stack = find_layers(model)
    plain = remove_layers(model, removed)
    factors = {gap.before + 1: 1.5 for gap in gaps_of(removed, len(stack)) if gap.stop < len(stack)}
    with multiplied(find_layers(plain), factors):
        expected = logits(plain, calibration.ids_ST[:2])
    rescale = Rescale()
    measured = rescale.measure(Removal(model, stack, tuple(removed), calibration))
    before = state(plain)
    with quiet(plain):
        fold(plain, find_layers(plain), factors, measured.scalings)
    assert logits(plain, calibration.ids_ST[:2]) == pytest.approx(expected, abs=2e-4 * float(expected.abs().max()))
    changed = [name for name, value in plain.state_dict().items() if not torch.equal(value, before[name])]
    assert changed
    assert not [name for name in changed if "embed" in name or "wte" in name or "lm_head" in name]


def test_rescale_never_raises_the_held_out_loss(gpt2, text):
    model = gpt2[0]
    plain = remove_layers(model, [1, 2, 3, 4])
    rescaled = compensated(model, Rescale(), text, [1, 2, 3, 4])
    record = compensation_record(rescaled)
    held_out = split(text, 0.25)[1]
    assert record.loss_before == pytest.approx(loss(plain, held_out), rel=1e-6)
    assert record.loss_after == pytest.approx(loss(rescaled, held_out), rel=1e-5)
    assert record.loss_after < record.loss_before
    assert record.changes


def test_rescale_in_half_precision_never_raises_the_held_out_loss_either(gpt2):
    """Folded weights are rounded: without layers 4 and 5 that costs more than the factor gains."""
    model = load_tiny_gpt2()[0].to(torch.bfloat16)
    few = Calibration.from_texts(load_calibration_text(), gpt2[1], seq_len=64, n_sequences=24)
    for removed in ([1], [4, 5]):
        rescaled = compensated(model, Rescale(), few, removed)
        record = compensation_record(rescaled)
        held_out = split(few, 0.25)[1]
        assert record.loss_after == pytest.approx(loss(rescaled, held_out), rel=1e-5)
        assert record.loss_after <= record.loss_before
        assert bool(record.changes) == (record.loss_after < record.loss_before)


def test_a_game_under_rescale_scores_rescaled_models(gpt2, text):
    """Fused, plain, and a model whose states are multiplied by hand at the gap, all the same."""
    model = gpt2[0]
    stack = find_layers(model)
    scales = layer_scales(model, stack, text)
    found = GameModel(model, stack).scaled(scales)
    mask = without([4, 5, 9], 12)
    with LayerGame(found, text, utility=NegativeLogLikelihood()) as game:
        assert game.path == "fused"
        [fused] = game(mask[None])
    with found.players.skip([4, 5, 9]):
        plain = loss(model, text)
    small = remove_layers(model, [4, 5, 9])
    with multiplied(find_layers(small), {4: float(scales[4] * scales[5]), 7: float(scales[9])}):
        by_hand = loss(small, text)
    assert -fused == pytest.approx(plain, rel=1e-6)
    assert -fused == pytest.approx(by_hand, rel=1e-6)
    assert abs(by_hand - loss(small, text)) > 1e-3


def test_a_fit_under_rescale_has_a_ledger_of_its_own(gpt2, text, tmp_path):
    parameters = {"max_remove": 2, "n_masks": 30, "random_state": 0, "ledger": tmp_path / "ledger.jsonl"}
    plain = LayerPruner(**parameters).fit(gpt2[0], text)
    assert "skip_scales" not in plain.fingerprint_
    with pytest.raises(LedgerMismatchError, match="skip_scales"):
        LayerPruner(compensation=Rescale(in_game=True), **parameters).fit(gpt2[0], text)
    under = LayerPruner(compensation=Rescale(in_game=True), **{**parameters, "ledger": None}).fit(gpt2[0], text)
    assert under.fingerprint_["skip_scales"] == pytest.approx(layer_scales(gpt2[0], find_layers(gpt2[0]), text))
    assert not np.allclose(under.scores_[:13], plain.scores_[:13])

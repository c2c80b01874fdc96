"""Compensated models of several families are checkpoints like any other: they reload as they are, and generate."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from layershap import Calibration, load_pruned, remove_layers, save_pruned
from layershap.compensation import LinearRefit, ReplaceMe, Rescale, compensation_of, compensation_record
from layershap.exceptions import CheckpointWarning, UnsupportedModelError

from .architectures.build import build
from .helpers.compensation import compensated, random_text
from .helpers.surgery import generate, logits


def text_by(model):
    """What the whole model itself goes on with after a few random tokens: what goes is missed, then."""
    beginnings = random_text(model, 24).ids_ST[:, :4]
    ids = model.generate(
        beginnings, attention_mask=torch.ones_like(beginnings), min_new_tokens=20, max_new_tokens=20, do_sample=False
    )
    return Calibration(ids, ids.clone())


RESCALE, REFIT, REFIT_ALL = Rescale(), LinearRefit(ridges=(1.0, 0.1)), LinearRefit("all", ridges=(1.0,))


# Norms of one plus their weight as writes, residual multipliers, routed experts, recurrent layers, biases, a hybrid.
@pytest.mark.parametrize(
    ("model_type", "compensation"),
    [
        ("llama", REFIT_ALL),
        ("gemma2", RESCALE),
        ("granite", REFIT),
        ("mixtral", RESCALE),
        ("mamba2", REFIT),
        ("falcon_h1", REFIT),
        ("phi", REFIT),
        ("phi", LinearRefit(writes="all", ridges=(1.0,))),
    ],
)
def test_it_reloads_and_generates(tmp_path, model_type, compensation):
    model = build(model_type)
    text = text_by(model)
    small = compensated(model, compensation, text, [2, 3])
    record = compensation_record(small)
    small.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded, text.ids_ST[:2]), logits(small, text.ids_ST[:2]))
    assert torch.equal(generate(loaded, use_cache=True), generate(small, use_cache=False))
    assert record.changes
    assert record.loss_after < record.loss_before


def test_attentions_write_is_refitted_after_the_feed_forward_parts():
    model = build("llama")
    text = text_by(model)
    small = compensated(model, LinearRefit(writes="all", ridges=(1.0,)), text, [2])
    record = compensation_record(small)
    assert [(change.layer, change.module) for change in record.changes] == [
        (1, "mlp.down_proj"),
        (1, "self_attn.o_proj"),
    ]
    plain = remove_layers(model, [2], check=False).state_dict()
    changed = [name for name, value in small.state_dict().items() if not torch.equal(value, plain[name])]
    assert changed == ["model.layers.1.self_attn.o_proj.weight", "model.layers.1.mlp.down_proj.weight"]
    last = compensation_record(compensated(model, LinearRefit(ridges=(1.0,)), text, [2]))
    assert record.changes[0] == last.changes[0]
    assert record.loss_after < last.loss_after


@pytest.mark.parametrize("model_type", ["llama", "diffllama"])  # a config that expresses the result, and one that can't
def test_a_recipe_carries_what_was_done(tmp_path, model_type):
    model = build(model_type)
    text = text_by(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        small = compensated(model, ReplaceMe(), text, [2])
    record = compensation_record(small)
    assert record.changes
    for folder in (tmp_path / "once", tmp_path / "again"):
        small = load_pruned(save_pruned(small, folder))
        assert compensation_record(small) == replace(record, text={})
    with pytest.raises(ValueError, match=r"compensated before \(ReplaceMe\)"):
        remove_layers(small, [1], check=False, compensation=Rescale(), calibration=text)
    less = remove_layers(small, [1], check=False)
    assert compensation_of(load_pruned(save_pruned(less, tmp_path / "less"))) == "ReplaceMe"
    assert compensation_record(load_pruned(tmp_path / "less")) is None


@pytest.mark.parametrize(
    ("compensation", "alone"),
    [(REFIT_ALL, ["layer 1", "layer 3"]), (LinearRefit(ridges=(1.0,)), ["layer 1"]), (ReplaceMe(), ["layer 1"])],
)
def test_layers_without_a_linear_write_are_left_alone(compensation, alone):
    """Every second layer of this hybrid ends in routed experts, which no regression refits."""
    model = build("jamba")
    text = text_by(model)
    record = compensation_record(compensated(model, compensation, text, [2, 5]))
    assert {change.layer for change in record.changes} <= {4}
    assert [note.partition(" is left alone")[0] for note in record.notes] == alone
    assert all("must be a linear layer" in note for note in record.notes)
    with pytest.raises(UnsupportedModelError, match=r"layer 1 of .* must be a linear layer"):
        compensated(model, LinearRefit(ridges=(1.0,)), text, [2])

"""Compensated models of several families are checkpoints like any other: they reload as they are, and generate."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from layershap import Calibration
from layershap.compensation import LinearRefit, Rescale, compensation_record

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

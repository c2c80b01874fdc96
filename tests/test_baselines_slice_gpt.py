"""SliceGPT: exact at full width, and as large as promised."""

from __future__ import annotations

import pytest
import torch

from layershap import UnsupportedModelError
from layershap.baselines import SliceGPT
from layershap.baselines.slice_gpt import sliced


@pytest.fixture(scope="module")
def fitted(stories, stories_calibration):
    return SliceGPT().fit(stories[0], stories_calibration)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_rotating_alone_changes_nothing(stories, stories_calibration, fitted):
    model = stories[0]
    rotated = sliced(model, fitted.bases_, model.config.hidden_size)
    ids = stories_calibration.ids_ST
    with torch.no_grad():
        torch.testing.assert_close(rotated(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


def test_bases_are_orthogonal_and_keep_most_variance_first(stories, stories_calibration, fitted):
    identity = torch.eye(fitted.bases_.shape[1], dtype=torch.float64)
    torch.testing.assert_close(fitted.bases_.transpose(1, 2) @ fitted.bases_, identity.expand_as(fitted.bases_))
    with torch.no_grad():
        states = stories[0](stories_calibration.ids_ST, output_hidden_states=True).hidden_states[0].flatten(0, 1)
    spread = (states.double() @ fitted.bases_[0]).pow(2).sum(0)
    assert (spread.diff() <= 1e-6 * spread[0]).all()


def test_parameters_fit_where_layers_would_have_been_removed(stories, fitted):
    model = stories[0]
    layer = parameters(model.model.layers[0])
    for n_remove in (1, 2, 3):
        width = fitted.width(model, n_remove)
        small = fitted.transform(model, n_remove)
        allowed = parameters(model) - n_remove * layer
        assert parameters(small) <= allowed
        assert parameters(sliced(model, fitted.bases_, width + 1)) > allowed


def test_the_model_is_left_alone(stories, stories_calibration, fitted):
    before = {name: value.clone() for name, value in stories[0].state_dict().items()}
    fitted.transform(stories[0], 2)
    after = stories[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_other_architectures_are_refused(gpt2, gpt2_calibration):
    with pytest.raises(UnsupportedModelError, match="Llama-style"):
        SliceGPT().fit(gpt2[0], gpt2_calibration)


def test_bad_numbers(stories, fitted):
    with pytest.raises(ValueError, match="how many layers"):
        fitted.transform(stories[0])
    with pytest.raises(TypeError, match="n_remove must be an int, or a fraction"):
        fitted.transform(stories[0], 1.5)
    with pytest.raises(ValueError, match="got 5"):
        fitted.transform(stories[0], 5)

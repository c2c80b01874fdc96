"""What a compensation can't do is refused before any work: by `fit` and `compare` before a mask is scored, by a removal
before the model is measured.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from layershap import Calibration, LayerPruner, compare, remove_layers
from layershap.baselines import LastLayers, ShortGPT
from layershap.compensation import LinearRefit, ReplaceMe, Rescale
from layershap.datasets import load_calibration_text, load_tiny_gpt2
from layershap.exceptions import CalibrationWarning, UnsupportedModelError

from .architectures.build import build
from .helpers.compensation import compensated, random_text


@pytest.fixture(scope="module")
def text(gpt2):
    return Calibration.from_texts(load_calibration_text(), gpt2[1], seq_len=64, n_sequences=48)


class Untouched(ShortGPT):
    """A baseline that must not begin."""

    def _fit(self, inputs):
        raise AssertionError("work was done before the compensation was checked")


def refused_early(model, text, compensation, kind, message):
    """`fit` refuses before it scores a mask, a baseline before it looks at the model."""

    def unwanted(model):
        raise AssertionError("a mask was scored before the compensation was checked")

    for pruner in (LayerPruner(compensation=compensation, utility=unwanted), Untouched(compensation=compensation)):
        with pytest.raises(kind, match=message):
            pruner.fit(model, text)


OUT_OF_RANGE = [
    (LinearRefit("some"), "scope must be 'gaps' or 'all', got 'some'"),
    (LinearRefit(ridges=(0.0,)), "ridges must be positive"),
    (LinearRefit(ridges=()), "ridges must be positive"),
    (LinearRefit(ridges=(np.nan, 1.0)), "ridges must be positive"),
    (LinearRefit(ridges=1.0), "ridges must be positive"),
    (LinearRefit(ridges=("1",)), "ridges must be positive"),
    (LinearRefit(held_out=0), "between 0 and 1, got 0"),
    (ReplaceMe(ridge=-1.0), "ridge must be a number of at least 0, got -1.0"),
    (ReplaceMe(ridge=None), "ridge must be a number of at least 0, got None"),
    (ReplaceMe(held_out=True), "between 0 and 1, got True"),
    (Rescale(held_out=1.0), "between 0 and 1, got 1.0"),
    (Rescale(held_out="half"), "between 0 and 1, got 'half'"),
]


@pytest.mark.parametrize(("compensation", "message"), OUT_OF_RANGE)
def test_parameters_out_of_range(gpt2, text, compensation, message):
    refused_early(gpt2[0], text, compensation, ValueError, message)
    with pytest.raises(ValueError, match=message):
        remove_layers(gpt2[0], [3], compensation=compensation, calibration=text)
    with pytest.raises(ValueError, match=message):
        compare(gpt2[0], text, text, {"untouched": Untouched()}, [1], compensations={"bad": compensation})


@pytest.mark.parametrize("compensation", [Rescale(), LinearRefit(), ReplaceMe()])
def test_a_single_sequence(gpt2, text, compensation):
    one = Calibration(text.ids_ST[:1], text.labels_ST[:1])
    refused_early(gpt2[0], one, compensation, ValueError, "needs two at least; got 1")


def test_no_text_where_the_method_itself_reads_none(gpt2):
    """`LastLayers` chooses without text; its compensation can't do without."""
    with pytest.raises((TypeError, ValueError), match="calib_data"):
        LastLayers(compensation=Rescale()).fit(gpt2[0])


def test_a_model_that_was_compensated_before(gpt2, text):
    small = compensated(gpt2[0], Rescale(), text, [3])
    refused_early(small, text, LinearRefit(), ValueError, r"compensated before \(Rescale\)")


def test_text_of_another_vocabulary(gpt2):
    ids = torch.full((4, 16), 10**6)
    refused_early(gpt2[0], Calibration(ids, ids.clone()), Rescale(), ValueError, "1000000")


def test_adapters(text):
    model = get_peft_model(load_tiny_gpt2()[0], LoraConfig(target_modules=["c_proj"], fan_in_fan_out=True))
    refused_early(model, text, Rescale(), UnsupportedModelError, "merge them first")


@pytest.mark.parametrize("model_type", ["olmo2", "exaone4"])
def test_norms_after_the_sublayers_in_place_of_before_them(model_type):
    """Attention and feed-forward part read the stream as it is; the norms behind take the scale of linear maps only."""
    model = build(model_type)
    text = random_text(model)
    refused_early(model, text, Rescale(), UnsupportedModelError, "reads the residual stream without a norm")
    refused_early(model, text, LinearRefit(), UnsupportedModelError, "must be a linear layer to be refitted")


@pytest.mark.parametrize("compensation", [LinearRefit(), ReplaceMe()])
def test_a_model_of_which_no_layer_can_be_refitted(compensation):
    model = build("gemma2")
    text = random_text(model)
    refused_early(model, text, compensation, UnsupportedModelError, "must be a linear layer to be refitted")


def test_a_model_of_which_some_layers_can_be_refitted_is_fitted(gpt2, text):
    """What depends on which layers go is refused when they do."""
    model = load_tiny_gpt2()[0]
    model.transformer.h[7].mlp.c_proj = model.transformer.h[2].mlp.c_proj
    refit = LinearRefit(ridges=(1.0,))
    with pytest.warns(CalibrationWarning):
        short = ShortGPT(compensation=refit, protect=[2, 7]).fit(model, text)
    with pytest.raises(UnsupportedModelError, match="belongs to other modules too"):
        remove_layers(model, [8], compensation=refit, calibration=short.calibration_)


def test_few_tokens_are_told_at_the_fit_with_the_number_that_is_needed(gpt2, text):
    few = Calibration(text.ids_ST[:8], text.labels_ST[:8])
    n_inputs = gpt2[0].transformer.h[0].mlp.c_proj.weight.shape[0] + 1
    shrinks = f"fewer than {4 * n_inputs:,} the shrinkage leaves most weights as they are"
    needed = f"Give {4 * n_inputs / 0.75:,.0f} tokens or more"
    with pytest.warns(CalibrationWarning, match=f"{shrinks}.*{needed}"):
        ShortGPT(compensation=LinearRefit()).fit(gpt2[0], few)


def test_a_removal_refuses_before_it_measures(text):
    """Layers that can't be served are found before the text goes through the model."""
    model = load_tiny_gpt2()[0]
    model.transformer.h[7].mlp.c_proj = model.transformer.h[2].mlp.c_proj
    calls = []
    model.register_forward_pre_hook(lambda module, args, kwargs: calls.append(kwargs or args), with_kwargs=True)
    longest = 64
    for compensation, removed in ((Rescale(), [1]), (ReplaceMe(), [3]), (LinearRefit(), [3])):
        with pytest.raises(UnsupportedModelError, match="belongs to other modules too"):
            remove_layers(model, removed, compensation=compensation, calibration=text, check=False)
    assert longest not in {found.shape[1] for call in calls for found in _tensors(call)}


def _tensors(call):
    values = call.values() if isinstance(call, dict) else call
    return [value for value in values if isinstance(value, torch.Tensor) and value.dim() == 2]


@pytest.mark.parametrize("compensation", [Rescale(), Rescale(in_game=True), LinearRefit(), ReplaceMe()])
def test_a_skeletons_cost_is_estimated_and_nothing_more(text, compensation):
    with torch.device("meta"):
        skeleton = GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=2, n_layer=4))
    pruner = LayerPruner(n_masks=20, max_remove=2, compensation=compensation)
    assert pruner.estimate_cost(skeleton, text).layer_runs > 0
    with pytest.raises(UnsupportedModelError, match="its layers can be inspected and their cost be estimated"):
        pruner.fit(skeleton, text)

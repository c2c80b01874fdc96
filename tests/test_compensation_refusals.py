"""What a compensation can't do is refused before any work: by `fit` and `compare` before a mask is scored, by a removal
before the model is measured.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils.prune import random_unstructured
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from layershap import Calibration, LayerPruner, compare, find_layers, remove_layers
from layershap.baselines import LastLayers, ShortGPT
from layershap.calibration import IGNORE
from layershap.compensation import (
    LinearRefit,
    Removal,
    ReplaceMe,
    Rescale,
    compensation_of,
    compensation_record,
    layer_scales,
)
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
    (LinearRefit(writes="attention"), "writes must be 'last' or 'all', got 'attention'"),
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


@pytest.mark.parametrize("compensation", [Rescale(), LinearRefit(), ReplaceMe()])
def test_text_longer_than_the_models_positions(compensation):
    model = GPT2LMHeadModel(GPT2Config(n_layer=4, n_embd=16, n_head=2, n_positions=20, vocab_size=64)).eval()
    text = random_text(model)  # 24 tokens
    message = "must fit the model's 20 positions, the longest has 24 tokens"
    refused_early(model, text, compensation, ValueError, message)
    with pytest.raises(ValueError, match=message):
        remove_layers(model, [2], compensation=compensation, calibration=text)
    with pytest.raises(ValueError, match=message):
        layer_scales(model, find_layers(model), text)


def test_a_norms_epsilon_is_named_as_a_reason():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "vocab_size": 64}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=4, rms_norm_eps=0.05)).eval()
    reason = "or with one whose epsilon is no small part of what it reads"
    with pytest.raises(UnsupportedModelError, match=reason):
        remove_layers(model, [1], compensation=Rescale(), calibration=random_text(model))


def test_a_pruning_mask_on_a_linear_layer_is_named_as_the_reason():
    model = build("llama")
    for layer in model.model.layers:
        random_unstructured(layer.mlp.down_proj, "weight", amount=0.5)
    reason = r"must be a parameter to be refitted, it is made of others.*prune\.remove"
    refused_early(model, random_text(model), LinearRefit(), UnsupportedModelError, reason)


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


def small_llama(**settings):
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 6, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(**shape, vocab_size=100, initializer_range=0.2, **settings)).eval()


@pytest.mark.parametrize("compensation", [Rescale(), LinearRefit(ridges=(1.0,)), ReplaceMe()])
@pytest.mark.parametrize("broken", ["kept", "removed", "embedding"])
@pytest.mark.filterwarnings("ignore::layershap.exceptions.CalibrationWarning")
def test_states_that_are_no_numbers(compensation, broken):
    """In a layer that stays, in one that goes, and in the embedding of one token that the text has."""
    model = small_llama()
    text = random_text(model)
    with torch.no_grad():
        if broken == "embedding":
            model.model.embed_tokens.weight[text.ids_ST[0, 3]] = float("inf")
        else:
            model.model.layers[3 if broken == "removed" else 4].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(UnsupportedModelError, match=r"must be (finite|a number)"):
        remove_layers(model, [3], compensation=compensation, calibration=text)


def test_a_layer_that_overflows_in_the_pruned_model_only_is_left_alone(gpt2, text):
    """One sequence of those fitted to: the held-out loss is a number all the same."""
    ids = text.ids_ST.clone()
    token = int(torch.bincount(ids.flatten(), minlength=1).argmin())
    ids[0, 5] = token
    assert int((ids == token).sum()) == 1
    model = load_tiny_gpt2()[0]
    refit = LinearRefit(ridges=(1.0,))
    stack = find_layers(model)
    measured = refit.measure(Removal(model, stack, (3, 6), Calibration(ids, ids.clone())))
    small = remove_layers(model, [3, 6], check=False)
    with torch.no_grad():
        small.transformer.wte.weight[token] = float("inf")
        small.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    record = refit.apply(small, find_layers(small), measured)
    assert record.notes == tuple(f"layer {n} is left alone: the pruned model overflows there" for n in (2, 5))
    assert not record.changes


def test_scales_of_a_game_that_are_no_numbers(gpt2, text):
    model = load_tiny_gpt2()[0]
    with torch.no_grad():
        model.transformer.h[3].mlp.c_proj.bias[0] = float("nan")
    with pytest.raises(UnsupportedModelError, match="before layer 4 must be finite and not all 0"):
        layer_scales(model, find_layers(model), text)


@pytest.mark.parametrize("scales", [np.ones(3), np.full(12, np.nan), "one", [None] * 12])
def test_scales_of_a_game_that_a_plug_in_gets_wrong(gpt2, text, scales):
    class Scaled(Rescale):
        def skip_scales(self, model, stack, calibration):
            return scales

    with pytest.raises(ValueError, match="must return one finite number for each of the 12 layers"):
        LayerPruner(compensation=Scaled(), n_masks=40, max_remove=1).fit(gpt2[0], text)


@pytest.mark.parametrize("compensation", [Rescale(), LinearRefit(ridges=(1.0,)), ReplaceMe()])
@pytest.mark.filterwarnings("ignore::layershap.exceptions.CalibrationWarning")
def test_sequences_of_which_no_token_counts_are_in_neither_part(gpt2, text, compensation):
    """Those that lie where sequences are held out too."""
    labels = text.labels_ST[:8].clone()
    labels[[1, 2, 5]] = IGNORE
    found = remove_layers(
        gpt2[0], [3], check=False, compensation=compensation, calibration=Calibration(text.ids_ST[:8], labels)
    )
    record = compensation_record(found)
    assert (record.n_tokens, record.n_held_out) == (4 * 64, 64)
    labels[1:] = IGNORE
    one = Calibration(text.ids_ST[:8], labels)
    refused_early(gpt2[0], one, compensation, ValueError, "needs two at least; got 1")


@pytest.mark.parametrize("compensation", [Rescale(), LinearRefit(), ReplaceMe()])
def test_a_skeleton_is_pruned_without_a_compensation_only(text, compensation):
    with torch.device("meta"):
        skeleton = GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=2, n_layer=4))
    with pytest.raises(UnsupportedModelError, match="no compensation can be measured on it"):
        remove_layers(skeleton, [1], check=False, compensation=compensation, calibration=text)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_without_a_norm(dtype):
    """OPT without its last norm, as some of its first checkpoints are: logits would shrink with the stream."""
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 4, "hidden_size": 32, "ffn_dim": 64, "num_attention_heads": 4, "vocab_size": 100}
    model = OPTForCausalLM(OPTConfig(**shape, word_embed_proj_dim=32, _remove_final_layer_norm=True)).eval().to(dtype)
    refused_early(model, random_text(model), Rescale(), UnsupportedModelError, "the head .* without a norm")
    with pytest.raises(UnsupportedModelError, match=r"the head .* without a norm"):
        remove_layers(model, [1], check=False, compensation=Rescale(), calibration=random_text(model))


@pytest.mark.parametrize("stored", [{"method": "Later", "changes": [{"unknown": 1}]}, {"method": "Later"}])
def test_a_record_of_another_version_tells_all_the_same_that_there_is_one(gpt2, text, stored):
    model = load_tiny_gpt2()[0]
    model.config.layershap_compensation = stored
    with pytest.raises(ValueError, match=r"compensated before \(Later\)"):
        remove_layers(model, [3], compensation=Rescale(), calibration=text)
    assert compensation_of(remove_layers(model, [3], check=False)) == "Later"

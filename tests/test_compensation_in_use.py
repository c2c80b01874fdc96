"""Compensated models as users get them, and what is refused."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import disk_offload
from peft import LoraConfig, get_peft_model
from sklearn.base import clone
from torch import nn
from transformers import AutoModelForCausalLM

from layershap import Calibration, LayerPruner, compare, remove_layers
from layershap.baselines import FixedLayers, LastLayers, ShortGPT
from layershap.compensation import (
    LinearRefit,
    ReplaceMe,
    Rescale,
    compensation_of,
    compensation_record,
)
from layershap.datasets import load_calibration_text, load_task, load_tiny_gpt2
from layershap.exceptions import CalibrationWarning, UnsupportedModelError
from layershap.tasks import multiple_choice

from .architectures.build import build
from .helpers.compensation import REMOVED, compensated, loss, random_text
from .helpers.surgery import generate, logits, state


@pytest.fixture(scope="module")
def text(gpt2):
    return Calibration.from_texts(load_calibration_text(), gpt2[1], seq_len=64, n_sequences=48)


@pytest.mark.parametrize("compensation", [Rescale(), LinearRefit(ridges=(1.0, 0.1))])
def test_the_result_is_a_plain_checkpoint(gpt2, text, tmp_path, compensation):
    small = compensated(gpt2[0], compensation, text, [1, 2, 3, 4])
    small.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(small))
    assert torch.equal(generate(loaded, use_cache=True), generate(small, use_cache=False))
    assert compensation_of(loaded) == type(compensation).__name__
    record = compensation_record(small)
    assert record.changes
    assert compensation_record(loaded) == replace(record, text={})  # a checkpoint doesn't keep whose text it was


def test_in_place_is_the_same(gpt2, text):
    copied = compensated(gpt2[0], LinearRefit(ridges=(1.0,)), text)
    model = load_tiny_gpt2()[0]
    in_place = remove_layers(model, REMOVED, copy=False, compensation=LinearRefit(ridges=(1.0,)), calibration=text)
    assert in_place is model
    assert torch.equal(logits(in_place), logits(copied))


def test_the_weights_can_be_trained_afterwards(gpt2, text):
    small = compensated(gpt2[0], LinearRefit(ridges=(1.0,)), text)
    small(text.ids_ST[:2], labels=text.ids_ST[:2]).loss.backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_pruner_and_baselines_compensate_in_transform(gpt2, text):
    model = gpt2[0]
    refit = LinearRefit(ridges=(1.0,))
    pruner = LayerPruner(compensation=refit, max_remove=2, n_masks=30, random_state=0).fit(model, text)
    pruner = pickle.loads(pickle.dumps(pruner))
    expected = compensated(model, refit, text, pruner.removed_layers(2))
    assert torch.equal(logits(pruner.transform(model, 2)), logits(expected))
    assert clone(pruner).compensation.ridges == (1.0,)
    assert pruner.set_params(compensation__scope="all").compensation.scope == "all"
    short = ShortGPT(compensation=refit).fit(model, text)
    expected = compensated(model, refit, text, short.removed_layers(3))
    assert torch.equal(logits(short.transform(model, 3)), logits(expected))


def test_a_model_that_changed_since_the_fit_is_measured_as_it_is(gpt2, text):
    model = load_tiny_gpt2()[0]
    pruner = ShortGPT(compensation=LinearRefit(ridges=(1.0,))).fit(model, text)
    with torch.no_grad():
        model.transformer.h[0].mlp.c_proj.weight.mul_(1.1)
    expected = compensated(model, LinearRefit(ridges=(1.0,)), text, pruner.removed_layers(2))
    assert torch.equal(logits(pruner.transform(model, 2)), logits(expected))


def test_compare_shows_methods_with_and_without(gpt2, text):
    model = gpt2[0]
    found = compare(
        model, text, text, {"last": LastLayers()}, [2, 4], compensations={"refit": LinearRefit(ridges=(1.0,))}
    )
    assert [choice.method for choice in found.choices] == ["last"] * 2 + ["last + refit"] * 2
    small = compensated(model, LinearRefit(ridges=(1.0,)), text, [8, 9, 10, 11])
    assert found["last + refit", 4].perplexity == pytest.approx(np.exp(loss(small, text)), rel=1e-5)
    assert found["last + refit", 4].layers == found["last", 4].layers == (8, 9, 10, 11)
    assert found["last + refit", 4].perplexity < found["last", 4].perplexity


def test_compare_shows_a_method_with_its_own_compensation_and_with_others(gpt2, text):
    methods = {"last": LastLayers(), "own": LastLayers(compensation=LinearRefit(ridges=(1.0,)))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        found = compare(gpt2[0], text, text, methods, [4], compensations={"scale": Rescale()})
    assert [choice.method for choice in found.choices] == ["last", "own", "last + scale", "own + scale"]
    assert found["own + scale", 4].perplexity == found["last + scale", 4].perplexity
    assert found["own", 4].perplexity < found["own + scale", 4].perplexity


def test_a_compensation_needs_text(gpt2):
    with pytest.raises(ValueError, match="give calibration=Calibration"):
        remove_layers(gpt2[0], [3], compensation=Rescale())


def test_a_class_is_no_compensation(gpt2, text):
    with pytest.raises(TypeError, match="methods measure and apply"):
        remove_layers(gpt2[0], [3], compensation=Rescale, calibration=text)


def test_a_second_compensation_is_refused(gpt2, text, tmp_path):
    small = compensated(gpt2[0], Rescale(), text, [3])
    small.save_pretrained(tmp_path)
    for model in (small, AutoModelForCausalLM.from_pretrained(tmp_path)):
        with pytest.raises(ValueError, match=r"compensated before \(Rescale\)"):
            remove_layers(model, [3], compensation=Rescale(), calibration=text)
        assert len(remove_layers(model, [3]).transformer.h) == 10


def test_a_record_is_of_one_removal(gpt2, text):
    """What goes later, without a compensation, leaves the method's name and no figures of another model."""
    small = compensated(gpt2[0], Rescale(), text, [1, 2, 3, 4])
    smaller = remove_layers(small, [5])
    assert compensation_record(smaller) is None
    assert compensation_of(smaller) == "Rescale"
    assert compensation_record(small).removed == (1, 2, 3, 4)


def test_a_compensation_that_changes_nothing_is_none(gpt2, text):
    """Layer 0 alone: there is no layer before it to refit."""
    small = compensated(gpt2[0], LinearRefit(ridges=(1.0,)), text, [0])
    assert compensation_of(small) is None
    assert compensation_record(small).notes
    assert compensation_record(compensated(small, Rescale(), text, [2])).method == "Rescale"


@pytest.mark.parametrize(
    ("compensation", "removed"),
    [(LinearRefit(ridges=(1.0,)), REMOVED), (ReplaceMe(ridge=0.1), REMOVED), (Rescale(), [1, 2, 3, 4])],
)
def test_an_interruption_leaves_the_pruned_model(gpt2, text, compensation, removed):
    """Ctrl-C once some weights are changed: those of a half compensated model would be no one's."""
    expected = state(remove_layers(gpt2[0], removed, check=False))
    model = load_tiny_gpt2()[0]
    changed = []

    def stop(module, args, output):
        # The head runs once for each loss on held-out text.
        changed.append({name for name, value in model.state_dict().items() if not torch.equal(value, expected[name])})
        if len(changed[-1]) > 2:  # more than a weight and a bias: a second layer's
            raise KeyboardInterrupt

    measured = compensation.measure

    def measure(removal):
        found = measured(removal)
        model.transformer.ln_f.register_forward_hook(stop)
        return found

    compensation.measure = measure
    with pytest.raises(KeyboardInterrupt):
        remove_layers(model, removed, copy=False, check=False, compensation=compensation, calibration=text)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_what_cannot_be_compensated_is_left_out_of_a_comparison():
    model = build("gemma2")
    text = random_text(model)
    compensations = {"refit": LinearRefit(ridges=(1.0,)), "scale": Rescale()}
    with pytest.warns(UserWarning, match=r"last \+ refit is left out for 2 layers: .*must be a linear layer"):
        found = compare(model, text, text, {"last": LastLayers()}, [2], compensations=compensations)
    assert [choice.method for choice in found.choices] == ["last", "last + scale"]


def test_layers_that_two_methods_choose_are_compensated_once(gpt2, text):
    made = []

    class Counted(LinearRefit):
        def measure(self, removal):
            made.append(removal.removed)
            return super().measure(removal)

    methods = {"one": FixedLayers([6, 7]), "other": FixedLayers([7, 6])}
    found = compare(gpt2[0], text, text, methods, [2], compensations={"refit": Counted(ridges=(1.0,))})
    assert made == [(6, 7)]
    rows = {choice.method: choice for choice in found.choices}
    assert rows["one + refit"].perplexity == rows["other + refit"].perplexity < rows["one"].perplexity
    assert found.costs["other + refit"].seconds > found.costs["other"].seconds


def test_a_method_whose_own_compensation_is_refused_has_no_row_without_it():
    """Its figures would be those of the layers gone and nothing made up for."""
    model = build("gemma3_text")
    text = random_text(model)

    class Picky(Rescale):
        def measure(self, removal):
            if len(removal.removed) == 2:
                raise UnsupportedModelError("not two layers")
            return super().measure(removal)

    methods = {"last": LastLayers(), "scaled": LastLayers(compensation=Picky())}
    with pytest.warns(UserWarning, match="scaled is left out for 2 layers: not two layers"):
        found = compare(model, text, text, methods, [1, 2])
    rows = [(choice.method, choice.n_remove) for choice in found.choices]
    assert rows == [("last", 1), ("last", 2), ("scaled", 1)]


class Writer(nn.Module):
    """A layer that writes to the residual stream by one linear layer after a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.down = nn.LayerNorm(16), nn.Linear(16, 16)

    def forward(self, hidden):
        return hidden + self.down(input=torch.tanh(self.norm(hidden)))


class Writers(nn.Module):
    """A causal model whose layers no rule finds: they lie in no ModuleList."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.blocks = nn.Embedding(128, 16), nn.Sequential(*(Writer() for _ in range(5)))
        self.head = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 128))

    def forward(self, ids):
        return self.head(self.blocks(self.embedding(ids)))


def test_layers_that_no_rule_finds_are_compared_all_the_same():
    """And a linear layer that is called by keyword is refitted."""
    model = Writers().eval()
    ids = torch.randint(0, 128, (12, 24), generator=torch.Generator().manual_seed(1))
    compensations = {"scale": Rescale(), "refit": LinearRefit(ridges=(1.0,))}
    text = Calibration(ids, ids.clone())
    found = compare(model, text, text, {"last": LastLayers()}, [2], layers="blocks", compensations=compensations)
    assert [choice.method for choice in found.choices] == ["last", "last + scale", "last + refit"]


def test_weights_made_of_others_are_refused():
    model = Writers().eval()
    nn.utils.parametrizations.weight_norm(model.blocks[1].down)
    ids = torch.randint(0, 128, (12, 24), generator=torch.Generator().manual_seed(1))
    with pytest.raises(UnsupportedModelError, match=r"must be a parameter to be refitted.*remove_parametrizations"):
        remove_layers(model, [2], stack="blocks", compensation=LinearRefit(), calibration=Calibration(ids, ids.clone()))


def test_a_task_is_no_text(gpt2):
    task = multiple_choice(load_task("copa")[:4], gpt2[1])
    with pytest.raises(ValueError, match="a task's sequences hold wrong answers too"):
        LayerPruner(compensation=LinearRefit()).fit(gpt2[0], task)


def test_text_without_a_compensation_is_refused(gpt2, text):
    with pytest.raises(ValueError, match="calibration is the text of a compensation"):
        remove_layers(gpt2[0], [3], calibration=text)


def test_a_baseline_fitted_without_a_compensation_kept_no_text(gpt2, text):
    short = ShortGPT().fit(gpt2[0], text).set_params(compensation=LinearRefit())
    with pytest.raises(ValueError, match="kept no text"):
        short.transform(gpt2[0], 1)
    with pytest.raises(ValueError, match="kept no text"):
        compare(gpt2[0], None, text, {"ShortGPT": short}, [1])


def test_one_sequence_is_too_few(gpt2, text):
    one = Calibration(text.ids_ST[:1], text.labels_ST[:1])
    with pytest.raises(ValueError, match="needs two at least; got 1"):
        remove_layers(gpt2[0], [3], compensation=Rescale(), calibration=one)


def test_few_tokens_for_the_regression_warn(gpt2, text):
    few = Calibration(text.ids_ST[:8], text.labels_ST[:8])
    n_inputs = gpt2[0].transformer.h[0].mlp.c_proj.weight.shape[0] + 1
    with pytest.warns(CalibrationWarning, match=f"{n_inputs} inputs per output to {6 * 64} tokens"):
        remove_layers(gpt2[0], [3], compensation=LinearRefit(ridges=(1.0,)), calibration=few)


def test_sublayers_are_refused(gpt2, text):
    pruner = LayerPruner(compensation=Rescale(), granularity="sublayer", max_remove=1, n_masks=60, random_state=0)
    with pytest.raises(ValueError, match="sublayers; remove layers"):
        pruner.fit(gpt2[0], text).transform(gpt2[0], 1)


def test_a_norm_after_the_last_linear_layer_is_refused_to_be_refitted():
    model = build("gemma2")
    with pytest.raises(UnsupportedModelError, match="must be a linear layer to be refitted"):
        remove_layers(model, [1], compensation=LinearRefit(), calibration=random_text(model))


def test_quantised_weights_are_refused(gpt2, text):
    model = load_tiny_gpt2()[0]

    class Rounded(nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.scale = float(linear.weight.detach().abs().max()) / 127
            rounded = (linear.weight.detach() / self.scale).round().to(torch.int8)
            self.weight = nn.Parameter(rounded, requires_grad=False)
            self.bias = linear.bias

        def forward(self, hidden):
            return hidden @ (self.weight.float() * self.scale) + self.bias

    model.transformer.h[2].mlp.c_proj = Rounded(model.transformer.h[2].mlp.c_proj)
    for compensation in (LinearRefit(), Rescale()):
        removed = [3] if isinstance(compensation, LinearRefit) else [1]
        with pytest.raises(UnsupportedModelError, match="quantised weights"):
            remove_layers(model, removed, compensation=compensation, calibration=text)


def test_weights_that_layers_share_are_refused(text):
    model = load_tiny_gpt2()[0]
    model.transformer.h[7].mlp.c_proj = model.transformer.h[2].mlp.c_proj
    for compensation in (LinearRefit(), Rescale()):
        with pytest.raises(UnsupportedModelError, match="belongs to other modules too"):
            remove_layers(
                model, [3 if isinstance(compensation, LinearRefit) else 1], compensation=compensation, calibration=text
            )


def test_adapters_are_refused(text):
    model = get_peft_model(load_tiny_gpt2()[0], LoraConfig(target_modules=["c_proj"], fan_in_fan_out=True))
    with pytest.raises(UnsupportedModelError, match="merge them first"):
        remove_layers(model, [3], compensation=Rescale(), calibration=text)


def test_offloaded_layers_are_refused(text, tmp_path):
    model = disk_offload(load_tiny_gpt2()[0], tmp_path, execution_device="cpu")
    with pytest.raises(UnsupportedModelError, match="are offloaded"):
        remove_layers(model, [3], compensation=Rescale(), calibration=text, check=False)

"""Compensation of removed layers: what is changed is what the closed forms say, and no more."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from accelerate import disk_offload
from peft import LoraConfig, get_peft_model
from sklearn.base import clone
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from layershap import Calibration, LayerGame, LayerPruner, compare, find_layers, remove_layers
from layershap.baselines import LastLayers, ShortGPT
from layershap.compensation import (
    Gap,
    LinearRefit,
    Removal,
    ReplaceMe,
    Rescale,
    compensation_of,
    compensation_record,
    layer_scales,
    refit_memory,
)
from layershap.compensation.gaps import gaps_of
from layershap.compensation.held_out import split
from layershap.compensation.layerwise import quiet
from layershap.compensation.regression import StreamedRidge
from layershap.compensation.rescale import fold, multiplied
from layershap.compensation.writes import WriteFinder
from layershap.datasets import load_calibration_text, load_tiny_gpt2
from layershap.exceptions import CalibrationWarning, LedgerMismatchError, UnsupportedModelError
from layershap.forward.unmasked import sequence_statistics
from layershap.game.players import GameModel
from layershap.masks import without
from layershap.testing import CompensationContract
from layershap.utilities import NegativeLogLikelihood

from .architectures.build import build
from .helpers.surgery import generate, logits, state

REMOVED = [2, 5, 6, 9]


@pytest.fixture(scope="module")
def text(gpt2):
    return Calibration.from_texts(load_calibration_text(), gpt2[1], seq_len=64, n_sequences=48)


def loss(model, calibration):
    found = sequence_statistics(model, calibration, ("nll",))
    return float(found.sums["nll"].sum() / found.counts.sum())


def compensated(model, compensation, calibration, removed=REMOVED):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        return remove_layers(model, removed, compensation=compensation, calibration=calibration)


class TestRescale(CompensationContract):
    def make(self):
        return Rescale()


@pytest.mark.filterwarnings("ignore::layershap.exceptions.CalibrationWarning")
class TestLinearRefit(CompensationContract):
    def make(self):
        return LinearRefit(ridges=(1.0, 0.1))


@pytest.mark.filterwarnings("ignore::layershap.exceptions.CalibrationWarning")
class TestLinearRefitOfAll(CompensationContract):
    def make(self):
        return LinearRefit("all", ridges=(1.0,))


class TestReplaceMe(CompensationContract):
    def make(self):
        return ReplaceMe(ridge=0.1)


def test_gaps_are_runs_of_removed_layers():
    assert gaps_of([0, 1, 4, 5, 7], 8) == (Gap(0, 2, -1), Gap(4, 6, 1), Gap(7, 8, 2))
    assert gaps_of([], 3) == ()


# -- writes ----------------------------------------------------------------------------------------------------------


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
    ids = torch.randint(8, model.config.vocab_size, (8, 24), generator=torch.Generator().manual_seed(1))
    with pytest.raises(UnsupportedModelError, match="must be a linear layer to be refitted, it is a MixtralExperts"):
        remove_layers(model, [1], compensation=LinearRefit(), calibration=Calibration(ids, ids.clone()))


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
        ids = torch.randint(8, model.config.vocab_size, (8, 24), generator=torch.Generator().manual_seed(1))
        calibration = Calibration(ids, ids.clone())
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


# -- LinearRefit -----------------------------------------------------------------------------------------------------


def test_refit_of_one_gap_is_ridge_regression(text):
    """Against the regression written out, on activations from forward hooks, for one ridge."""
    model, ridge = load_tiny_gpt2()[0], 0.1
    refitted = compensated(model, LinearRefit(ridges=(ridge,)), text, [6, 7])
    record = compensation_record(refitted)
    assert [(change.layer, change.module) for change in record.changes] == [(5, "mlp.c_proj")]
    plain = remove_layers(model, [6, 7])
    fitted = split(text, 0.25)[0]
    module = plain.transformer.h[5].mlp.c_proj
    seen = []
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.inference_mode():
        target = model(fitted.ids_ST, output_hidden_states=True, use_cache=False).hidden_states[8]
        reached = plain(fitted.ids_ST, output_hidden_states=True, use_cache=False).hidden_states[6]
    hook.remove()
    inputs = seen[0].flatten(0, 1).double()
    inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
    weights = 1 / target.flatten(0, 1).double().square().mean(dim=1)
    gram = (inputs * weights[:, None]).T @ inputs
    moment = (inputs * weights[:, None]).T @ (target - reached).flatten(0, 1).double()
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    change = torch.linalg.solve(gram, moment)
    found = refitted.transformer.h[5].mlp.c_proj
    assert (found.weight - module.weight).detach().double() == pytest.approx(
        change[:-1], abs=1e-4 * float(change.abs().max())
    )
    assert (found.bias - module.bias).detach().double() == pytest.approx(
        change[-1], abs=1e-4 * float(change.abs().max())
    )


@pytest.mark.parametrize("scope", ["gaps", "all"])
def test_refit_lowers_the_loss_on_text_it_has_not_seen(gpt2, text, scope):
    model = gpt2[0]
    record = compensation_record(refitted := compensated(model, LinearRefit(scope), text))
    held_out = split(text, 0.25)[1]
    assert record.loss_after == pytest.approx(loss(refitted, held_out), rel=1e-5)
    losses = [record.loss_before, *(change.loss for change in record.changes)]
    assert losses == sorted(losses, reverse=True)
    assert record.loss_after < record.loss_before - 0.05
    layers = [change.layer for change in record.changes]
    assert set(layers) <= ({1, 4, 8} if scope == "gaps" else {1, 3, 4, 7, 8, 10, 11})


def test_a_refit_that_would_hurt_is_left_out(gpt2, text):
    """Fitted to one token over and over and judged by a story: no strength helps, so nothing changes."""
    ids = torch.full((3, 64), 300)
    ids[1] = text.ids_ST[0]  # the sequence that is held out
    refitted = compensated(gpt2[0], LinearRefit(ridges=(1e-6,)), Calibration(ids, ids.clone()), [6, 7])
    record = compensation_record(refitted)
    assert not record.changes
    assert record.loss_after == record.loss_before
    plain = state(remove_layers(gpt2[0], [6, 7]))
    assert all(torch.equal(value, plain[name]) for name, value in refitted.state_dict().items())


def test_fewer_tokens_than_inputs_are_solved_all_the_same():
    """Also with a ridge below the rounding of the sums: against the solution in the tokens' space."""
    generator = torch.Generator().manual_seed(0)
    inputs, missing = torch.randn(20, 300, generator=generator), torch.randn(20, 4, generator=generator)
    ridge = StreamedRidge(300, 4, torch.device("cpu"))
    ridge.add(inputs, missing, torch.ones(20))
    for strength in (1.0, 1e-9):
        kernel = (inputs @ inputs.T).double()
        kernel.diagonal().add_(strength * float(inputs.square().sum()) / 300)
        expected = inputs.double().T @ torch.linalg.solve(kernel, missing.double())
        torch.testing.assert_close(ridge.change(strength), expected.T, rtol=1e-3, atol=1e-4)


def test_replace_me_is_least_squares(text):
    """The published form: from the feed-forward output before the gap, in the whole model."""
    model = load_tiny_gpt2()[0]
    mapped = compensated(model, ReplaceMe(ridge=1e-9), text, [6, 7])
    fitted = split(text, 0.25)[0]
    seen = []
    hook = model.transformer.h[5].mlp.c_proj.register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.inference_mode():
        states = model(fitted.ids_ST, output_hidden_states=True, use_cache=False).hidden_states
    hook.remove()
    written = seen[0].flatten(0, 1).double()
    rest = states[6].flatten(0, 1).double() - written
    solution = torch.linalg.lstsq(written, states[8].flatten(0, 1).double() - rest, driver="gelsd").solution
    expected = model.transformer.h[5].mlp.c_proj.weight.detach().double() @ solution
    assert mapped.transformer.h[5].mlp.c_proj.weight.detach().double() == pytest.approx(
        expected, abs=1e-3 * float(expected.abs().max())
    )


def test_layers_before_which_there_is_none_are_left_alone(gpt2, text):
    record = compensation_record(compensated(gpt2[0], LinearRefit(ridges=(1.0,)), text, [0, 6]))
    assert record.notes == ("layers [0] have no layer before them to refit",)
    assert {change.layer for change in record.changes} == {5}


# -- in use ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compensation", [Rescale(), LinearRefit(ridges=(1.0, 0.1))])
def test_the_result_is_a_plain_checkpoint(gpt2, text, tmp_path, compensation):
    small = compensated(gpt2[0], compensation, text)
    small.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(small))
    assert torch.equal(generate(loaded, use_cache=True), generate(small, use_cache=False))
    assert compensation_of(loaded) == type(compensation).__name__


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
    pruner = LayerPruner(compensation=refit, max_remove=2, n_masks=60, random_state=0).fit(model, text)
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


# -- bad input -------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("compensation", "message"),
    [
        (LinearRefit("some"), "scope must be 'gaps' or 'all', got 'some'"),
        (LinearRefit(ridges=(0.0,)), "ridges must be positive"),
        (Rescale(held_out=1.0), "between 0 and 1, got 1.0"),
    ],
)
def test_parameters_out_of_range(gpt2, text, compensation, message):
    with pytest.raises(ValueError, match=message):
        remove_layers(gpt2[0], [3], compensation=compensation, calibration=text)


def test_a_norm_after_the_last_linear_layer_is_refused_to_be_refitted():
    model = build("gemma2")
    ids = torch.randint(8, model.config.vocab_size, (8, 24), generator=torch.Generator().manual_seed(1))
    with pytest.raises(UnsupportedModelError, match="must be a linear layer to be refitted"):
        remove_layers(model, [1], compensation=LinearRefit(), calibration=Calibration(ids, ids.clone()))


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


# -- the game under Rescale ------------------------------------------------------------------------------------------


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
    parameters = {"max_remove": 2, "n_masks": 60, "random_state": 0, "ledger": tmp_path / "ledger.jsonl"}
    plain = LayerPruner(**parameters).fit(gpt2[0], text)
    assert "skip_scales" not in plain.fingerprint_
    with pytest.raises(LedgerMismatchError, match="skip_scales"):
        LayerPruner(compensation=Rescale(in_game=True), **parameters).fit(gpt2[0], text)
    under = LayerPruner(compensation=Rescale(in_game=True), **{**parameters, "ledger": None}).fit(gpt2[0], text)
    assert under.fingerprint_["skip_scales"] == pytest.approx(layer_scales(gpt2[0], find_layers(gpt2[0]), text))
    assert not np.allclose(under.scores_[:13], plain.scores_[:13])


# -- memory ----------------------------------------------------------------------------------------------------------


def test_a_7b_model_is_refitted_within_24_gigabytes():
    config = LlamaConfig(
        num_hidden_layers=32, hidden_size=4096, intermediate_size=11008, num_attention_heads=32, vocab_size=32000
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    found = refit_memory(model, range(16, 24), 32768)
    per_layer = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert found.weights == 2 * (24 * per_layer + 2 * 32000 * 4096 + 4096)
    assert found.targets == 32768 * 4096 * 2
    assert found.device < 24e9
    assert found.device > found.weights + 20 * 11008**2  # the Gram matrix in float32, and twice in float64


def test_the_memory_told_is_what_is_held(gpt2, text):
    """The regression's own tensors, counted."""
    model = gpt2[0]
    ridge = StreamedRidge(640, 160, torch.device("cpu"))
    held = sum(tensor.numel() * tensor.element_size() for tensor in vars(ridge).values() if isinstance(tensor, Tensor))
    told = refit_memory(model, [6, 7], text.ids_ST.numel())
    assert told.regression > held
    assert told.targets == text.ids_ST.numel() * 160 * 4


def test_weights_that_layers_share_are_refused(text):
    model = load_tiny_gpt2()[0]
    model.transformer.h[7].mlp.c_proj = model.transformer.h[2].mlp.c_proj
    for compensation in (LinearRefit(), Rescale()):
        with pytest.raises(UnsupportedModelError, match="belongs to other layers too"):
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

"""Compensation of removed layers: what is changed is what the closed forms say, and no more."""

from __future__ import annotations

import warnings
from functools import partial
from itertools import accumulate

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from layershap import Calibration, find_layers, remove_layers
from layershap.compensation import (
    Gap,
    LinearRefit,
    Removal,
    ReplaceMe,
    Rescale,
    compensation_record,
    refit_memory,
)
from layershap.compensation.gaps import gaps_of
from layershap.compensation.held_out import split
from layershap.compensation.linear import LinearLayer
from layershap.compensation.regression import StreamedRidge
from layershap.datasets import load_calibration_text, load_tiny_gpt2
from layershap.exceptions import CalibrationWarning
from layershap.testing import CompensationContract

from .architectures.build import build
from .helpers.compensation import compensated, loss, random_text
from .helpers.surgery import state


@pytest.fixture(scope="module")
def text(gpt2):
    return Calibration.from_texts(load_calibration_text(), gpt2[1], seq_len=64, n_sequences=48)


TINY = {"num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 64}


class TestRescale(CompensationContract):
    def make(self):
        return Rescale()


class TestRescaleInGames(CompensationContract):
    def make(self):
        return Rescale(in_game=True)


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


@pytest.mark.parametrize(
    ("which", "gap", "path"),
    [("gpt2", [6, 7], "transformer.h.{}.mlp.c_proj"), ("falcon", [2], "transformer.h.{}.mlp.dense_4h_to_h")],
)
def test_replace_me_is_least_squares(text, which, gap, path):
    """The published form: from the feed-forward output before the gap, in the whole model. Falcon's layers add
    attention's output to it in place.
    """
    model = load_tiny_gpt2()[0] if which == "gpt2" else build(which)
    text = text if which == "gpt2" else random_text(model, 48)
    path = path.format(gap[0] - 1)
    mapped = compensated(model, ReplaceMe(ridge=1e-9), text, gap)
    fitted = split(text, 0.25)[0]
    seen = []
    hook = model.get_submodule(path).register_forward_hook(lambda *call: seen.append(call[2].clone()))
    with torch.inference_mode():
        states = model(fitted.ids_ST, output_hidden_states=True, use_cache=False).hidden_states
    hook.remove()
    written = seen[0].flatten(0, 1).double()
    rest = states[gap[0]].flatten(0, 1).double() - written
    solution = torch.linalg.lstsq(written, states[gap[-1] + 1].flatten(0, 1).double() - rest, driver="gelsd").solution
    old, new = (LinearLayer(found.get_submodule(path)).weight_DF.double() for found in (model, mapped))
    expected = solution.T @ old
    assert not torch.allclose(new, old, rtol=1e-2)
    assert new == pytest.approx(expected, abs=1e-3 * float(expected.abs().max()))


def test_layers_before_which_there_is_none_are_left_alone(gpt2, text):
    record = compensation_record(compensated(gpt2[0], LinearRefit(ridges=(1.0,)), text, [0, 6]))
    assert record.notes == ("layers [0] have no layer before them to refit",)
    assert {change.layer for change in record.changes} == {5}


def test_a_7b_model_is_refitted_within_24_gigabytes():
    config = LlamaConfig(
        num_hidden_layers=32, hidden_size=4096, intermediate_size=11008, num_attention_heads=32, vocab_size=32000
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    found = refit_memory(model, range(16, 24), 32768, copy=False)
    per_layer = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert found.weights == 2 * (24 * per_layer + 2 * 32000 * 4096 + 4096)
    assert found.whole == found.weights + 2 * 8 * per_layer
    assert found.targets == 32768 * 4096 * 2
    assert found.old_weights == 11008 * 4096 * 2
    assert str(found).endswith(f"{(found.targets + found.old_weights) / 1e9:.3g} GB on the host")
    assert found.device < 24e9
    assert found.device > found.weights + 20 * 11008**2  # the Gram matrix in float32, and twice in float64
    copied = refit_memory(model, range(16, 24), 32768)
    assert copied.device == found.device + found.whole
    assert str(copied).startswith(f"{copied.device / 1e9:.3g} GB on the device (whole model 13.5, pruned model 10.2, ")
    # So little is left that measuring the whole model takes more.
    few = refit_memory(model, range(4, 28), 128, copy=False)
    assert few.device == found.whole
    assert "(whole model, before layers go 13.5)" in str(few)


def test_a_refit_of_all_layers_keeps_a_target_of_each(text):
    model = load_tiny_gpt2()[0]
    told = refit_memory(model, [3, 6, 7], text.ids_ST.numel(), scope="all")
    removal = Removal(model, find_layers(model), (3, 6, 7), text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        measured = LinearRefit("all", held_out=0.001).measure(removal)  # one sequence
    held = sum(target.numel() * target.element_size() for states in measured.targets.values() for target in states)
    assert held == told.targets * (text.n_sequences - 1) / text.n_sequences
    changed = [model.transformer.h[layer].mlp.c_proj for layer in (2, 4, 5, *range(8, len(model.transformer.h)))]
    assert told.old_weights == sum(4 * parameter.numel() for part in changed for parameter in part.parameters())


def peak_bytes(work):
    """Most bytes that torch held at once for a piece of work, on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = profiled.profiler.kineto_results.events()
    return max(accumulate(event.nbytes() for event in events if event.name() == "[memory]"))


@pytest.mark.parametrize(("n_tokens", "kind"), [(-5, ValueError), (0, ValueError), (1.5, TypeError)])
def test_the_memory_told_needs_a_number_of_tokens(gpt2, n_tokens, kind):
    with pytest.raises(kind, match="n_tokens must be an int"):
        refit_memory(gpt2[0], [3], n_tokens)


@pytest.mark.parametrize("layers", [[], range(12)])
def test_the_memory_told_is_of_a_removal(gpt2, layers):
    with pytest.raises(ValueError, match="at least one of the 12 layers and leave one"):
        refit_memory(gpt2[0], layers, 64)


def test_the_memory_told_needs_a_scope_that_exists(gpt2):
    with pytest.raises(ValueError, match="scope must be 'gaps' or 'all', got 'gap'"):
        refit_memory(gpt2[0], [3], 64, scope="gap")


def test_the_memory_told_of_a_regression_is_what_it_takes():
    """Its sums, and what a solution takes beside them."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**TINY, hidden_size=400, intermediate_size=1200))
    ridge = StreamedRidge(1200, 400, torch.device("cpu"))
    ridge.add(torch.randn(2000, 1200), torch.randn(2000, 400), torch.ones(2000))
    held = sum(tensor.numel() * tensor.element_size() for tensor in vars(ridge).values() if isinstance(tensor, Tensor))
    told = refit_memory(model, [2], 2000).regression
    assert 0.8 * told < held + peak_bytes(lambda: ridge.change(0.1)) <= told


def test_the_memory_told_knows_shared_keys_and_values():
    """Llama 3's keys are narrower than the stream that its layers write to."""
    shape = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**{**TINY, **shape})).to(torch.bfloat16)
    told = refit_memory(model, [2, 4], 1000)
    assert told.targets == 2 * 1000 * 4096 * 2
    assert told.states == 3 * 1000 * 4096 * 2
    assert told.regression == 20 * 14336**2 + 28 * 14336 * 4096


def test_the_memory_told_of_the_states_is_what_they_take():
    """What a refit takes more on twice the tokens."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TINY, hidden_size=128, intermediate_size=64)).eval()
    taken = []
    for n_sequences in (200, 400):
        text = random_text(model, n_sequences)
        refit = LinearRefit(ridges=(1.0, 0.1))
        measured = refit.measure(Removal(model, find_layers(model), (2, 4), text))
        small = remove_layers(model, [2, 4], check=False)
        taken.append(peak_bytes(partial(refit.apply, small, find_layers(small), measured)))
    told = [refit_memory(model, [2, 4], n * 24) for n in (200, 400)]
    assert told[1].states - told[0].states == pytest.approx(taken[1] - taken[0], rel=0.1)
    assert told[1].targets == 2 * 400 * 24 * 128 * 4


@pytest.mark.parametrize(
    ("losses", "chosen", "n_tried"),
    [
        ([5, 4, 3, 3.5, 1, 1, 1], 1.0, 4),
        ([5, 6, 4, 3, 3.5, 1, 1], 0.3, 5),  # where much is broken the strongest may beat a middle one only
        ([9, 10, 11, 12, 13, 14, 15], None, 7),
        ([9, 8.5, 8.1, 8.2, 1, 1, 1], None, 4),
    ],
)
def test_shrinkage_is_weakened_until_the_loss_rises(losses, chosen, n_tried):
    torch.manual_seed(0)
    linear = LinearLayer(torch.nn.Linear(4, 3))
    before = linear.weight_DF.clone()
    ridge = StreamedRidge(5, 3, torch.device("cpu"))
    ridge.add(torch.randn(50, 5), torch.randn(50, 3), torch.ones(50))
    left = list(map(float, losses))
    found, loss = LinearRefit()._strength(linear, ridge, lambda: left.pop(0), 8.0)
    assert found == chosen
    assert loss == min(8.0, *losses[:n_tried])
    assert len(losses) - len(left) == n_tried
    assert torch.equal(linear.weight_DF, before) == (chosen is None)

"""Each baseline against an independent computation on real trained models."""

from __future__ import annotations

import copy
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from torch import nn

from layershap import CheckpointWarning, Exhaustive, skip_layers
from layershap.baselines import (
    SLEB,
    AngularDistance,
    BlockPruner,
    BruteForce,
    LastLayers,
    RandomLayers,
    RelativeMagnitude,
    ShortenedLlama,
    ShortGPT,
    SliceGPT,
    activations,
    shortened_llama,
    slice_gpt,
)
from layershap.forward.engine import Engine


def hidden_states(model, calibration):
    """States that enter each layer and leave the last, from transformers' own output (the last one is normed)."""
    base = model.base_model
    norm = base.norm if hasattr(base, "norm") else base.ln_f
    ends = {}
    hook = norm.register_forward_pre_hook(lambda module, args: ends.update(final=args[0]))
    with torch.no_grad():
        states = model(calibration.ids_ST, output_hidden_states=True).hidden_states
    hook.remove()
    return [*states[:-1], ends["final"]]


def mean_nll(model, calibration, removed):
    with torch.no_grad(), skip_layers(model, removed):
        logits = model(calibration.ids_ST, use_cache=False).logits[:, :-1]
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), calibration.ids_ST[:, 1:].flatten()))


def test_block_influence_is_one_minus_the_mean_cosine(stories, stories_calibration):
    states = hidden_states(stories[0], stories_calibration)
    expected = []
    for before, after in pairwise(states):
        cosine = (before * after).sum(-1) / (before.norm(dim=-1) * after.norm(dim=-1))
        expected.append(1 - float(cosine.mean()))
    fitted = ShortGPT().fit(stories[0], stories_calibration)
    np.testing.assert_allclose(fitted.importance_, expected, atol=1e-6)
    assert fitted.removed_layers(2) == sorted(np.argsort(expected)[:2])


def test_relative_magnitude_is_the_added_norm_over_the_resulting(stories, stories_calibration):
    states = hidden_states(stories[0], stories_calibration)
    expected = [float(((b - a).norm(dim=-1) / b.norm(dim=-1)).mean()) for a, b in pairwise(states)]
    np.testing.assert_allclose(
        RelativeMagnitude().fit(stories[0], stories_calibration).importance_, expected, rtol=1e-5
    )


def test_angular_distance_reads_the_last_token_and_takes_a_contiguous_block(gpt2, gpt2_calibration):
    model = gpt2[0]
    last = [state[:, -1].double() for state in hidden_states(model, gpt2_calibration)]
    fitted = AngularDistance().fit(model, gpt2_calibration)
    for n_remove in (1, 4, 9):
        distances = []
        for start in range(12 - n_remove + 1):
            cosine = torch.nn.functional.cosine_similarity(last[start], last[start + n_remove])
            distances.append(float((cosine.arccos() / np.pi).mean()))
            assert fitted.distances_[start, start + n_remove] == pytest.approx(distances[-1], abs=1e-5)
        start = int(np.argmin(distances))
        assert fitted.removed_layers(n_remove) == list(range(start, start + n_remove))


def test_angular_distance_ignores_padding(gpt2, gpt2_calibration):
    ids = gpt2_calibration.ids_ST[:1]
    padded = torch.cat([ids, ids[:, :5]], dim=1)
    batch = {"input_ids": padded, "attention_mask": torch.arange(padded.shape[1])[None] < ids.shape[1]}
    np.testing.assert_allclose(
        AngularDistance().fit(gpt2[0], [batch]).distances_, AngularDistance().fit(gpt2[0], ids).distances_, atol=1e-6
    )
    np.testing.assert_allclose(
        ShortGPT().fit(gpt2[0], [batch]).importance_, ShortGPT().fit(gpt2[0], ids).importance_, atol=1e-6
    )


def test_a_block_never_spans_a_protected_layer(stories, stories_calibration):
    fitted = AngularDistance(protect=[2]).fit(stories[0], stories_calibration)
    assert fitted.removed_layers(2) in ([0, 1], [3, 4])
    with pytest.raises(ValueError, match="contiguous"):
        fitted.removed_layers(3)


def test_taylor_importance_by_the_models_own_backward(gpt2, gpt2_calibration):
    model = gpt2[0]
    fitted = ShortenedLlama(criterion="taylor").fit(model, gpt2_calibration)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    try:
        model(gpt2_calibration.ids_ST, labels=gpt2_calibration.ids_ST).loss.backward()
        expected = [
            sum(float((p * p.grad).abs().sum().detach()) for n, p in layer.named_parameters() if n.endswith("weight"))
            for layer in model.transformer.h
        ]
    finally:
        model.zero_grad(set_to_none=True)
    np.testing.assert_allclose(fitted.importance_, expected, rtol=1e-4)


def test_taylor_leaves_frozen_parameters_frozen(stories, stories_calibration):
    model = stories[0]
    free = ShortenedLlama(criterion="taylor").fit(model, stories_calibration)
    try:
        model.requires_grad_(False)
        frozen = ShortenedLlama(criterion="taylor").fit(model, stories_calibration)
        assert not any(parameter.requires_grad for parameter in model.parameters())
    finally:
        model.requires_grad_(True)
    np.testing.assert_array_equal(free.importance_, frozen.importance_)


def test_magnitude_needs_no_text(stories):
    fitted = ShortenedLlama(criterion="magnitude").fit(stories[0])
    expected = [sum(float(p.detach().abs().sum()) for p in layer.parameters()) for layer in stories[0].model.layers]
    np.testing.assert_allclose(fitted.importance_, expected, rtol=1e-5)
    assert fitted.diagnostics_["layer_runs"] == 0


def test_one_shot_perplexity_by_skipping_each_layer(stories, stories_calibration):
    fitted = ShortenedLlama().fit(stories[0], stories_calibration)
    expected = [mean_nll(stories[0], stories_calibration, [layer]) for layer in range(5)]
    np.testing.assert_allclose(fitted.importance_, expected, rtol=1e-5)
    assert fitted.diagnostics_["n_evaluated"] == 1 + 5  # the dense model, for the ledger


def test_protected_ends(gpt2):
    fitted = ShortenedLlama(criterion="magnitude", protect_ends=True).fit(gpt2[0])
    assert set(fitted.removed_layers(6)) == {4, 5, 6, 7, 8, 9}
    assert np.isnan(fitted.importance_[[0, 1, 2, 3, 10, 11]]).all()
    with pytest.raises(ValueError, match="n_remove must lie in"):
        fitted.removed_layers(7)


def test_protected_ends_of_a_shallow_model_are_refused(stories):
    with pytest.raises(ValueError, match="none is left"):
        ShortenedLlama(criterion="magnitude", protect_ends=True).fit(stories[0])


def test_sleb_is_greedy_elimination(stories, stories_calibration):
    model = stories[0]
    removed = []
    for _ in range(4):
        rest = [layer for layer in range(5) if layer not in removed]
        removed.append(min(rest, key=lambda layer: mean_nll(model, stories_calibration, [*removed, layer])))
    fitted = SLEB(early_barrier=0, latter_barrier=0).fit(model, stories_calibration)
    assert fitted.removal_order_.tolist() == removed
    assert fitted.diagnostics_["n_evaluated"] == 1 + 5 + 4 + 3 + 2


def test_slebs_barriers_and_max_remove(stories, stories_calibration):
    fitted = SLEB(max_remove=2).fit(stories[0], stories_calibration)
    assert not {0, 4} & set(fitted.removal_order_)
    with pytest.raises(ValueError, match="max_remove"):
        fitted.removed_layers(3)


@pytest.mark.parametrize("barriers", [{"early_barrier": 10}, {"latter_barrier": 7}, {"protect": [1, 2, 3]}])
def test_slebs_barriers_that_leave_nothing_are_refused(stories, stories_calibration, barriers):
    with pytest.raises(ValueError, match="0 of this model's 5 layers are removable, see early_barrier"):
        SLEB(**barriers).fit(stories[0], stories_calibration)


@pytest.mark.parametrize("max_remove", [None, 1])
def test_one_removable_layer_can_be_searched_for(stories, stories_calibration, max_remove):
    fitted = SLEB(protect=[1, 3], max_remove=max_remove).fit(stories[0], stories_calibration)
    assert fitted.removed_layers(1) == [2]
    assert fitted.max_remove_ == 1
    with pytest.raises(ValueError, match=r"in \[1, 1\] \(1 of 5 layers are removable\), got 2"):
        SLEB(protect=[1, 3], max_remove=2).fit(stories[0], stories_calibration)
    with pytest.raises(TypeError, match="max_remove must be an int"):
        SLEB(max_remove=1.5).fit(stories[0], stories_calibration)


def test_nothing_to_remove_is_refused(stories):
    with pytest.raises(ValueError, match="0 of this model's 5 layers are removable, see protect"):
        LastLayers(protect=range(5)).fit(stories[0])


def test_block_pruner_is_greedy_elimination_of_sublayers(stories, stories_calibration):
    """Against zeroing the output projections by hand, which silences a sublayer of a Llama."""
    model = copy.deepcopy(stories[0])
    outputs = [part for layer in model.model.layers for part in (layer.self_attn.o_proj, layer.mlp.down_proj)]
    removed = []
    with torch.no_grad():
        for _ in range(3):
            found = {}
            for player, output in enumerate(outputs):
                if player not in removed:
                    weight = output.weight.clone()
                    output.weight.zero_()
                    found[player] = mean_nll(model, stories_calibration, [])
                    output.weight.copy_(weight)
            removed.append(min(found, key=found.get))
            outputs[removed[-1]].weight.zero_()
    fitted = BlockPruner(max_remove=3).fit(stories[0], stories_calibration)
    assert fitted.removal_order_.tolist() == removed
    with pytest.warns(CheckpointWarning):
        small = fitted.transform(stories[0], n_remove=3)
    with torch.no_grad():
        masked = model(stories_calibration.ids_ST, use_cache=False).logits
        torch.testing.assert_close(small(stories_calibration.ids_ST).logits, masked, atol=1e-4, rtol=1e-4)


def test_brute_force_finds_the_enumerated_optimum(stories, stories_calibration):
    fitted = BruteForce().fit(stories[0], stories_calibration)
    for n_remove in range(1, 5):
        best = min(
            combinations(range(5), n_remove), key=lambda removed: mean_nll(stories[0], stories_calibration, removed)
        )
        assert fitted.removed_layers(n_remove) == list(best)
        assert fitted.best_nll_[n_remove - 1] == pytest.approx(
            mean_nll(stories[0], stories_calibration, best), rel=1e-5
        )


def test_brute_force_refuses_what_it_cannot_pay_for(gpt2, gpt2_calibration):
    with pytest.raises(ValueError, match="max_masks=100"):
        BruteForce(max_masks=100, max_remove=3).fit(gpt2[0], gpt2_calibration)
    for wrong, error in (("all", TypeError), (0, ValueError), (2.5, TypeError), (True, TypeError), (None, TypeError)):
        with pytest.raises(error, match="BruteForce's max_masks must be an int of at least 1"):
            BruteForce(max_masks=wrong, max_remove=1).fit(gpt2[0], gpt2_calibration)
        with pytest.raises(error, match="Exhaustive's max_masks must be an int of at least 1"):
            Exhaustive(max_masks=wrong).n_required(12, 1)


def test_last_and_random(stories):
    assert LastLayers().fit(stories[0]).removed_layers(2) == [3, 4]
    assert LastLayers(protect=[4]).fit(stories[0]).removed_layers(2) == [2, 3]
    first, again = (RandomLayers(random_state=3).fit(stories[0]) for _ in range(2))
    assert first.removal_order_.tolist() == again.removal_order_.tolist()
    assert sorted(first.removal_order_) == list(range(5))


@pytest.mark.parametrize("method", [ShortGPT(), AngularDistance(), ShortenedLlama(criterion="taylor"), SLEB()])
def test_the_estimator_contract(method, stories, stories_calibration):
    with pytest.raises(NotFittedError):
        method.removed_layers(1)
    with pytest.raises(ValueError, match="calibration data is required"):
        clone(method).fit(stories[0])
    fitted = clone(method).set_params(n_remove=2).fit(stories[0], stories_calibration)
    small = fitted.transform(stories[0])
    assert small.config.num_hidden_layers == 3
    removed = fitted.removed_layers()
    assert fitted.get_support().tolist() == [layer not in removed for layer in range(5)]
    with torch.no_grad(), skip_layers(stories[0], removed):
        masked = stories[0](stories_calibration.ids_ST, use_cache=False).logits
    with torch.no_grad():
        torch.testing.assert_close(small(stories_calibration.ids_ST).logits, masked)
    piped = make_pipeline(clone(method).set_params(n_remove=1)).fit_transform(stories[0], stories_calibration)
    assert piped.config.num_hidden_layers == 4


def test_another_models_depth_is_refused(stories, stories_calibration, gpt2):
    fitted = ShortGPT().fit(stories[0], stories_calibration)
    with pytest.raises(ValueError, match="fitted on a model of 5 players"):
        fitted.transform(gpt2[0], n_remove=1)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (SLEB(5), r"n_remove must lie in \[1, 4\]"),
        (SLEB(4), r"n_remove must lie in \[1, 3\] .* 3 of them removable; got 4"),  # the barriers keep two
        (SLEB(3, max_remove=2), "n_remove=3 exceeds max_remove=2.*give max_remove=3"),
        (BlockPruner(0), "n_remove must lie in"),
        (BruteForce(2, max_remove=1), "n_remove=2 exceeds max_remove=1"),
        (ShortenedLlama(-1), "n_remove must lie in"),
        (ShortenedLlama(1.5, criterion="taylor"), r"a fraction of the layers in \(0, 1\), got 1\.5"),
        (ShortGPT("2"), "n_remove must be an int"),
        (RelativeMagnitude(True), "n_remove must be an int"),
        (AngularDistance(99), "n_remove must lie in"),
        (LastLayers([2]), "n_remove must be an int"),
        (SliceGPT(5), r"n_remove must lie in \[1, 4\]"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_constructors_number_is_checked_before_work(method, message, stories, stories_calibration, monkeypatch):
    monkeypatch.setattr(Engine, "run", lambda *args: pytest.fail("a mask was paid for"))
    for module in (activations, slice_gpt, shortened_llama):
        monkeypatch.setattr(module, "token_blocks", lambda *args: pytest.fail("the model was run"))
    with pytest.raises((ValueError, TypeError), match=message):
        method.fit(stories[0], stories_calibration)


@pytest.mark.parametrize("method", [LastLayers(0.4), SliceGPT(0.4), SLEB(0.2, max_remove=2)], ids=repr)
def test_a_fraction_of_the_layers(method, stories, stories_calibration):
    method.fit(stories[0], stories_calibration)
    count = max(1, int(5 * method.n_remove))
    for small, same in ((method.transform(stories[0]), method.transform(stories[0], n_remove=count)),):
        assert [p.shape for p in small.parameters()] == [p.shape for p in same.parameters()]
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in stories[0].parameters())


@pytest.fixture
def broken(stories):
    """NaN weights in one layer: nothing after it is a number."""
    model = copy.deepcopy(stories[0])
    model.model.layers[1].mlp.down_proj.weight.data[:] = float("nan")
    return model


@pytest.mark.parametrize(
    "method",
    [
        SLEB(),
        BlockPruner(max_remove=1),
        BruteForce(max_remove=1),
        ShortenedLlama(),
        ShortenedLlama(criterion="taylor"),
        ShortenedLlama(criterion="magnitude"),
        ShortGPT(),
        RelativeMagnitude(),
        AngularDistance(),
    ],
    ids=repr,
)
def test_a_broken_model_is_refused(method, broken, stories_calibration, monkeypatch):
    """NaN compares with nothing: which layers go would be an accident."""
    masks = []
    run = Engine.run
    monkeypatch.setattr(Engine, "run", lambda self, found, progress: masks.extend(found) or run(self, found, progress))
    with pytest.raises(ValueError, match="is the model sound"):
        method.fit(broken, stories_calibration)
    assert len(masks) <= 1, "paid for on top of the whole model"


def test_a_layer_without_which_the_model_breaks_goes_last(stories, stories_calibration):
    class Needs(nn.Module):
        """Zero where the state is far from zero on average, NaN where it isn't."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, hidden):
            return self.inner(hidden) + 0 * (hidden.mean(dim=-1, keepdim=True) - 0.05).sqrt()

    class Lifts(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, hidden):
            return self.inner(hidden) + 1000

    model = copy.deepcopy(stories[0])
    lifting, needing = model.model.layers[1], model.model.layers[3]
    needing.post_attention_layernorm.weight.data[:] = 1
    lifting.mlp, needing.mlp = Lifts(lifting.mlp), Needs(needing.mlp)
    assert np.isfinite(mean_nll(model, stories_calibration, []))
    assert np.isnan(mean_nll(model, stories_calibration, [1]))
    fitted = ShortenedLlama().fit(model, stories_calibration)
    assert fitted.importance_[1] == np.inf
    assert fitted.removal_order_[-1] == 1
    greedy = SLEB(early_barrier=0, latter_barrier=0, max_remove=1).fit(model, stories_calibration)
    assert greedy.removed_layers(1) != [1]

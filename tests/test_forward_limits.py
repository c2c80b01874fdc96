"""Any masks, the memory budget, offloaded weights, half precision, and layers that the user has compiled."""

from __future__ import annotations

import weakref
from collections import Counter
from copy import deepcopy

import numpy as np
import pytest
import torch
from accelerate import disk_offload
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from layershap import Calibration, LayerGame
from layershap.datasets import tiny_random
from layershap.forward.fused import FusedForward
from layershap.shapley import all_masks
from layershap.utilities import NegativeLogLikelihood

from .helpers.forward import engine_for, fused, plain, some_masks
from .helpers.models import CarriesAStream

some_mask = arrays(bool, 5) | st.sampled_from([np.ones(5, bool), np.zeros(5, bool), np.eye(5, dtype=bool)[2]])


@pytest.fixture(scope="module")
def every_plain_score(stories, stories_calibration):
    """Minus the NLL per token of all 32 coalitions, from the plain forward, by mask."""
    engine = engine_for(stories[0], stories_calibration)
    masks = all_masks(5)
    nll = plain(engine, masks)["nll"].sum(axis=1) / stories_calibration.counts_S.sum().item()
    return {mask.tobytes(): -value for mask, value in zip(masks, nll, strict=True)}


@settings(deadline=None, max_examples=50)
@given(masks=st.lists(some_mask, min_size=1, max_size=12))
def test_any_list_of_masks_scores_as_the_plain_forward(stories_calibration, stories, every_plain_score, masks):
    """Unsorted, with duplicates, all kept, one kept, none kept."""
    game = LayerGame(stories[0], stories_calibration, utility=NegativeLogLikelihood())
    scores = game(np.array(masks))
    assert game.path == "fused"
    assert scores == pytest.approx([every_plain_score[mask.tobytes()] for mask in masks], abs=1e-5)
    dense = np.ones(5, dtype=bool)  # evaluated too, as what the score is relative to
    assert game.n_evaluated == len({mask.tobytes() for mask in [*masks, dense]})


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_neither_seen_nor_scored(stories, side):
    model, _ = stories
    rows = [torch.arange(3, 3 + n) * 7 % 500 for n in (12, 5, 9)]
    ids, mask = torch.zeros(3, 12, dtype=torch.int64), torch.zeros(3, 12, dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(12 - len(row), None) if side == "left" else slice(len(row))
        ids[i, place], mask[i, place] = row, 1
    engine = engine_for(model, Calibration.from_batches([{"input_ids": ids, "attention_mask": mask}]))
    masks = some_masks(5, 6)
    found = fused(engine, masks)["nll"]
    for i, row in enumerate(rows):
        alone = fused(engine_for(model, Calibration(row[None], row[None].clone())), masks)["nll"][:, 0]
        assert found[:, i] / (len(row) - 1) == pytest.approx(alone / (len(row) - 1), abs=1e-5)


@pytest.mark.parametrize("n_states", [1, 3, 4, 6, 9, 17, 64])
def test_hidden_states_stay_within_the_budget(stories, stories_calibration, monkeypatch, n_states):
    model, _ = stories
    masks = all_masks(5)
    reference = fused(engine_for(model, stories_calibration), masks[np.lexsort(masks.T[::-1])])["nll"]
    state_bytes = engine_for(model, stories_calibration).forward.state_bytes
    budget = n_states * state_bytes
    engine = engine_for(model, stories_calibration, memory_budget=budget)
    live: list[weakref.ref[torch.Tensor]] = []
    peak = 0
    stored = FusedForward.stored

    def track(self, state):
        nonlocal peak, live
        live = [ref for ref in live if ref() is not None]
        live.append(weakref.ref(state.hidden))
        distinct = {id(t): t.numel() * t.element_size() for ref in live if (t := ref()) is not None}
        peak = max(peak, sum(distinct.values()))
        return stored(self, state)

    plan = engine.plan(masks)  # decides on the path first: that is not part of the run
    monkeypatch.setattr(FusedForward, "stored", track)
    assert fused(engine, masks)["nll"] == pytest.approx(reference, abs=1e-5)
    assert 0 < peak <= max(budget, 3 * state_bytes)  # the root, a layer's input and its output
    assert peak <= plan.peak_states * state_bytes


def test_a_disk_offloaded_layer_is_loaded_once_a_sweep_however_many_masks(stories, stories_calibration, tmp_path):
    model = deepcopy(stories[0])
    masks = all_masks(5)
    reference = fused(engine_for(model, stories_calibration), masks)["nll"]
    disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    engine = engine_for(model, stories_calibration)
    assert engine.path == "fused", engine.note
    loads: Counter[str] = Counter()
    for index, layer in enumerate(engine.stack.layers):
        for name, module in layer.named_modules():
            hook = getattr(module, "_hf_hook", None)
            if getattr(hook, "offload", False):
                hook.pre_forward = _counted(hook.pre_forward, loads, f"{index}.{name}")
    assert fused(engine, masks)["nll"] == pytest.approx(reference, abs=1e-4)
    assert {name.split(".")[0] for name in loads} == set("01234")
    assert set(loads.values()) == {1}
    assert len(engine.plan(masks).sweeps) == 1


def _counted(function, counter, name):
    def call(*args, **kwargs):
        counter[name] += 1
        return function(*args, **kwargs)

    return call


def test_states_kept_elsewhere_give_the_same_numbers(stories, stories_calibration):
    """The code path of offloaded models on a GPU, here with the host as both places."""
    engine = engine_for(stories[0], stories_calibration)
    masks = some_masks(5)
    reference = fused(engine, masks)["nll"]
    moved = engine_for(stories[0], stories_calibration)
    moved.settings = moved.forward.settings = moved.settings.with_states_on_the_host()
    assert moved.settings.state_device == torch.device("cpu")
    assert np.array_equal(fused(moved, masks)["nll"], reference)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_states_wait_on_the_host_for_a_gpu(stories, stories_calibration):
    model = deepcopy(stories[0]).to("cuda")
    masks = some_masks(5)
    reference = fused(engine_for(model, stories_calibration), masks)["nll"]
    engine = engine_for(model, stories_calibration)
    engine.settings = engine.forward.settings = engine.settings.with_states_on_the_host()
    assert fused(engine, masks)["nll"] == pytest.approx(reference, abs=1e-4)


def test_half_precision_fused_is_plain(stories, stories_calibration):
    model = deepcopy(stories[0]).to(torch.bfloat16)
    engine = engine_for(model, stories_calibration)
    masks = some_masks(5)
    gap = np.abs(fused(engine, masks)["nll"] - plain(engine, masks)["nll"]) / stories_calibration.counts_S.numpy()
    # What a batch of another size may change in bfloat16, in nats per token; float32 is held to 1e-5.
    assert gap.max() <= 2e-3


def test_layers_compiled_in_place_serve_as_they_are():
    """One graph for all layers in the comparison of both forwards, one in all else; patches are not traced."""
    model = tiny_random("llama", n_layers=6)
    ids = torch.randint(1, 60, (4, 12), generator=torch.Generator().manual_seed(0))
    masks = some_masks(6, 10)
    expected = fused(engine_for(model, Calibration(ids, ids.clone())), masks)["nll"]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for layer in model.model.layers:
        layer.compile(backend="eager", fullgraph=False)
    engine = engine_for(model, Calibration(ids, ids.clone()), batch_tokens=48)
    assert fused(engine, masks)["nll"] == pytest.approx(expected, abs=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_what_layers_hand_on_beside_hidden_states_belongs_to_the_coalition():
    """States without the stream yet (all earlier layers skipped) aren't joined with those that have it."""
    ids = torch.randint(1, 60, (3, 12), generator=torch.Generator().manual_seed(0))
    engine = engine_for(CarriesAStream(), Calibration(ids, ids.clone()), layers="blocks", batch_tokens=200)
    masks = all_masks(4)
    masks = masks[np.lexsort(masks.T[::-1])]
    assert fused(engine, masks)["nll"] == pytest.approx(plain(engine, masks)["nll"], abs=1e-4)

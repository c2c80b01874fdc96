"""The gate: fused = plain = physically removed, to 1e-5."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from torch import nn

from layershap import Calibration, LayerGame, UnsupportedModelError, find_layers, remove_layers, skip_layers
from layershap.calibration import IGNORE
from layershap.datasets import tiny_random
from layershap.masks import distinct

from .helpers.forward import engine_for, fused, plain, some_masks
from .helpers.models import CarriesState, Unknown, tiny_gpt2
from .helpers.texts import FEW_IDS


@pytest.mark.parametrize("fixture", ["gpt2", "stories"])
def test_fused_is_plain_is_removed_on_real_weights(request, fixture):
    model, _ = request.getfixturevalue(fixture)
    calibration = request.getfixturevalue(f"{fixture}_calibration")
    engine = engine_for(model, calibration)
    masks = some_masks(len(engine.stack))
    tokens = calibration.counts_S.numpy()
    from_fused, from_plain = fused(engine, masks)["nll"] / tokens, plain(engine, masks)["nll"] / tokens
    assert from_fused == pytest.approx(from_plain, abs=1e-5)
    checked = 0
    for mask, row in zip(masks, from_fused, strict=True):
        removed = np.flatnonzero(~mask)
        if not 0 < len(removed) < len(mask):
            continue
        small = remove_layers(model, removed)
        with torch.inference_mode():
            logits = small(calibration.ids_ST).logits[:, :-1]
        nll = nn.functional.cross_entropy(logits.transpose(1, 2), calibration.ids_ST[:, 1:], reduction="none")
        assert nll.mean(dim=1).numpy() == pytest.approx(row, abs=1e-5)
        checked += 1
    assert checked >= 5


FAMILIES = ["gpt2", "llama", "mistral", "qwen2", "gpt_neox", "bloom", "gemma2", "cohere", "granite", "mamba"]


@pytest.mark.parametrize("arch", FAMILIES)
def test_fused_is_plain_across_families(arch):
    model = tiny_random(arch)
    engine = engine_for(model, Calibration(FEW_IDS, FEW_IDS.clone()), statistics=("nll", "kl", "hits"))
    masks = some_masks(4)
    found, expected = fused(engine, masks), plain(engine, masks)
    assert found["nll"] == pytest.approx(expected["nll"], abs=1e-4)
    assert found["kl"] == pytest.approx(expected["kl"], abs=1e-4)
    assert np.array_equal(found["hits"], expected["hits"])
    assert np.ptp(found["nll"].sum(axis=1)) > 0.1  # the layers matter, so agreement means something


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_score_depends_on_no_other_mask(dtype):
    """To the last bit, on a model so wide that matrix products of other shapes round otherwise on many processors."""
    torch.manual_seed(0)
    model = tiny_gpt2(n_layer=5, n_embd=512, n_head=8).to(dtype)
    ids_ST = torch.randint(128, (5, 17))
    text = Calibration(ids_ST, ids_ST.clone())
    masks = some_masks(5, 20)
    for statistics in (("nll",), ("nll", "kl", "hits")):
        engine = engine_for(model, text, statistics, batch_tokens=40)
        together = fused(engine, masks)
        alone = [fused(engine, mask[None]) for mask in masks]
        halves = [fused(engine, masks[:9]), fused(engine, masks[9:])]
        for name in statistics:
            assert np.array_equal(together[name], np.concatenate([found[name] for found in alone]))
            assert np.array_equal(together[name], np.concatenate([found[name] for found in halves]))
    if dtype == torch.bfloat16 and rounds_by_shape(model.transformer.h[0].mlp.c_fc):  # it does matter on this model
        one_row = engine_for(model, text, batch_tokens=17)
        assert not np.array_equal(fused(one_row, masks)["nll"], together["nll"])


def rounds_by_shape(linear):
    """Whether this processor rounds a matrix product of one sequence otherwise than the same rows beside others."""
    inputs_NF = torch.randn(34, 512).to(linear.weight.dtype)
    with torch.inference_mode():
        return not torch.equal(linear(inputs_NF)[:17], linear(inputs_NF[:17]))


@pytest.mark.parametrize("batch_tokens", [1, 24, 100, 10_000])
@pytest.mark.parametrize("memory_budget", [1, 20_000, 2**30])
def test_results_do_not_depend_on_the_budgets(stories, stories_calibration, batch_tokens, memory_budget):
    model, _ = stories
    masks = some_masks(5, 20)
    reference = fused(engine_for(model, stories_calibration), masks)["nll"]
    engine = engine_for(model, stories_calibration, batch_tokens=batch_tokens, memory_budget=memory_budget)
    assert fused(engine, masks)["nll"] == pytest.approx(reference, abs=1e-4)


def test_head_in_token_windows_is_the_head_at_once(stories, stories_calibration):
    model, _ = stories
    masks = some_masks(5)
    whole = fused(engine_for(model, stories_calibration, ("nll", "kl")), masks)
    seven_tokens = engine_for(model, stories_calibration, ("nll", "kl"), head_bytes=4 * 512 * 7)
    windowed = fused(seven_tokens, masks)
    for name in ("nll", "kl"):
        assert windowed[name] == pytest.approx(whole[name], abs=1e-4)


def test_kl_is_the_definition(stories, stories_calibration):
    model, _ = stories
    mask = np.array([[True, True, False, True, True]])
    found = fused(engine_for(model, stories_calibration, ("kl",)), mask)["kl"][0]
    with torch.inference_mode():
        dense = model(stories_calibration.ids_ST).logits[:, :-1].log_softmax(-1)
        with skip_layers(model, [2]):
            masked = model(stories_calibration.ids_ST).logits[:, :-1].log_softmax(-1)
    expected = nn.functional.kl_div(masked, dense, log_target=True, reduction="none").sum(dim=(1, 2))
    assert found == pytest.approx(expected.numpy(), rel=1e-4)


def test_half_precision_scores_in_float32(stories, stories_calibration):
    from copy import deepcopy

    model = deepcopy(stories[0]).to(torch.bfloat16)
    engine = engine_for(model, stories_calibration)
    masks = some_masks(5)
    found, reference = fused(engine, masks)["nll"], fused(engine_for(stories[0], stories_calibration), masks)["nll"]
    tokens = stories_calibration.counts_S.numpy()
    usable = masks[:, 0]
    assert np.abs((found - reference) / tokens)[usable].max() < 0.05
    assert next(model.parameters()).dtype == torch.bfloat16


def test_offloaded_layers_are_loaded_once_per_sweep(stories_calibration, stories):
    from copy import deepcopy

    model = deepcopy(stories[0])
    reference = fused(engine_for(model, stories_calibration), some_masks(5))["nll"]
    cpu_offload(model, execution_device=torch.device("cpu"))
    engine = engine_for(model, stories_calibration)
    assert engine.path == "fused", engine.note
    masks = some_masks(5)
    assert len(engine.plan(masks).sweeps) == 1
    loads = {}
    for name, module in engine.stack.layers[2].named_modules():
        hook = getattr(module, "_hf_hook", None)
        if getattr(hook, "offload", False):
            original = hook.pre_forward

            def count(*args, _original=original, _name=name, **kwargs):
                loads[_name] = loads.get(_name, 0) + 1
                return _original(*args, **kwargs)

            hook.pre_forward = count
    found = fused(engine, masks)["nll"]
    assert loads
    assert set(loads.values()) == {1}
    assert found == pytest.approx(reference, abs=1e-4)


def test_a_model_that_cant_be_replayed_is_served_by_the_plain_path():
    model = CarriesState()
    game = LayerGame(model, FEW_IDS, layers="blocks")
    scores = game(np.array([[1, 1, 1, 1], [1, 0, 1, 0]], dtype=bool))
    assert game.path == "plain"
    assert "replayed layers differ" in game.path_note
    with torch.no_grad():
        with skip_layers(model, [1, 3], stack="blocks"):
            logits = model(FEW_IDS)
        dense = model(FEW_IDS)
    nll = [
        nn.functional.cross_entropy(x[:, :-1].flatten(0, 1), FEW_IDS[:, 1:].flatten()).item() for x in (dense, logits)
    ]
    assert scores == pytest.approx([1.0, np.exp(nll[0] - nll[1])], rel=1e-5)


def test_a_module_unknown_to_transformers_is_fused_too():
    model = Unknown(nn.Sequential)
    engine = engine_for(model, Calibration(FEW_IDS, FEW_IDS.clone()), layers="blocks")
    masks = some_masks(4)
    assert fused(engine, masks)["nll"] == pytest.approx(plain(engine, masks)["nll"], abs=1e-4)
    by_module = find_layers(model, list(model.blocks))
    assert by_module.path == "blocks"


def test_skip_layers_restores_the_model_whatever_happens(stories):
    model, _ = stories
    before = {id(m): dict(m.__dict__) for m in model.modules()}
    with torch.inference_mode():
        dense = model(FEW_IDS).logits
    with pytest.raises(RuntimeError, match="inside"), skip_layers(model, [0, 1]), skip_layers(model, [3]):
        raise RuntimeError("inside")
    with torch.inference_mode():
        assert torch.equal(model(FEW_IDS).logits, dense)
    assert all("forward" not in m.__dict__ for m in model.modules())
    assert all(m.__dict__.keys() == before[id(m)].keys() for m in model.modules())


def test_evaluation_mode_is_for_the_time_of_the_game_only(stories_calibration):
    model = tiny_random("gpt2", vocab_size=512)
    model.train()
    model.transformer.h[1].eval()
    LayerGame(model, stories_calibration)(np.ones((1, 4), dtype=bool))
    assert model.training
    assert not model.transformer.h[1].training


def test_encoder_only_and_other_models_are_refused():
    from transformers import BertConfig, BertForMaskedLM, BertModel

    config = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
    with pytest.raises(UnsupportedModelError, match="not causal"):
        find_layers(BertForMaskedLM(config))
    with pytest.raises(UnsupportedModelError, match="logits"):
        find_layers(BertModel(config))
    with pytest.raises(TypeError, match="from_pretrained"):
        find_layers("gpt2")
    with pytest.raises(UnsupportedModelError, match="is not a module of"):
        find_layers(Unknown(nn.Sequential), "layers")
    with pytest.raises(UnsupportedModelError, match="must be a submodule"):
        find_layers(Unknown(nn.Sequential), list(Unknown(nn.Sequential).blocks))


@pytest.mark.parametrize(
    ("layers", "error"),
    [
        ([5], ValueError),
        ([-6], ValueError),
        ([1, 1], ValueError),
        ([1.0], TypeError),
        ([True], TypeError),
        (2, TypeError),
    ],
)
def test_bad_layer_indices(stories, layers, error):
    with pytest.raises(error, match="layer"), skip_layers(stories[0], layers):
        pass


def test_sequences_of_any_length_in_blocks_cut_to_what_is_scored(stories):
    """Sorted by length, cut after the last scored token and with the head on scored tokens only: the same sums."""
    model, _ = stories
    generator = torch.Generator().manual_seed(1)
    rows = []
    for length, context in ((9, 0), (30, 25), (4, 2), (30, 3), (17, 16), (12, 1)):
        ids = torch.randint(3, 500, (length,), generator=generator)
        labels = ids.clone()
        labels[:context] = IGNORE
        rows.append((ids, labels))
    rows[3][1][20:] = IGNORE  # what follows the last scored token can't change it
    masks = distinct(some_masks(5))
    engine = engine_for(model, Calibration.from_rows(rows, {}), ("nll", "kl", "hits"), batch_tokens=40)
    assert [tuple(block.ids_BT.shape) for block in engine.tokens.blocks] == [(1, 30), (2, 20), (3, 12)]
    assert engine.tokens.n_tokens == 106
    found = fused(engine, masks)
    one_by_one = plain(engine, masks)
    for column, (ids, labels) in enumerate(rows):
        alone = engine_for(model, Calibration(ids[None], labels[None]), ("nll", "kl", "hits"))
        single = fused(alone, masks)
        for name in ("nll", "kl", "hits"):
            assert found[name][:, column] == pytest.approx(single[name][:, 0], abs=1e-4)
            assert one_by_one[name][:, engine.tokens.place_S[column]] == pytest.approx(single[name][:, 0], abs=1e-4)

"""The cost told before the work: against what the work then takes, and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from layershap import Calibration, LayerGame, LayerPruner, ShapleyRanking
from layershap.datasets import load_calibration_text
from layershap.shapley import all_masks
from layershap.utilities import KLDivergence

from .helpers.models import CarriesAStream
from .helpers.texts import FEW_IDS


def test_layer_runs_and_masks_are_those_of_the_evaluation(stories, stories_calibration):
    masks = all_masks(5)
    masks = np.concatenate([masks, masks[:7]])
    game = LayerGame(stories[0], stories_calibration)
    cost = game.estimate_cost(masks)
    assert game.n_evaluated == 0
    game(masks)
    assert game.layer_runs == cost.layer_runs
    assert (cost.n_masks, cost.n_distinct, cost.layer_runs) == (39, 32, 31)
    assert cost.layer_runs_one_by_one == masks.sum()
    assert cost.layer_runs_zeroed == 39 * 5
    assert cost.forwards_saved == (masks.sum() - 31) / 5
    assert (cost.path, cost.seconds > 0) == ("fused", True)
    assert "32 distinct" in str(cost)
    assert "32 distinct" in cost._repr_html_()


def test_flops_are_the_closed_form(stories, stories_calibration):
    model, _ = stories
    config = model.config
    tokens = stories_calibration.ids_ST.numel()
    width, length = config.hidden_size, stories_calibration.seq_len
    key_value = config.num_key_value_heads * width // config.num_attention_heads
    weights = 2 * width * width + 2 * width * key_value + 3 * width * config.intermediate_size
    layer = 2 * tokens * weights + 2 * 2 * tokens * length * width  # products with weights; QK and AV
    head = 2 * tokens * width * config.vocab_size
    masks = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 1, 1]], dtype=bool)
    cost = LayerGame(model, stories_calibration).estimate_cost(masks)
    assert cost.layer_runs == 7
    assert cost.flops == pytest.approx(7 * layer + 2 * head, rel=1e-6)


def test_peak_memory_counts_states_and_logits(stories, stories_calibration):
    model, _ = stories
    state = stories_calibration.ids_ST.numel() * model.config.hidden_size * 4
    one_mask = np.array([[True, True, False, True, True]])
    ratio = LayerGame(model, stories_calibration).estimate_cost(one_mask).peak_bytes
    kl = LayerGame(model, stories_calibration, utility=KLDivergence()).estimate_cost(one_mask).peak_bytes
    assert kl - ratio == state
    assert ratio == 3 * state + 32 * 2**20


def test_the_plain_path_is_estimated_too():
    model = CarriesAStream()
    for block in model.blocks:
        block.forward = _unreplayable(block.forward)
    game = LayerGame(model, Calibration(FEW_IDS, FEW_IDS.clone()), layers="blocks")
    cost = game.estimate_cost(all_masks(4))
    assert cost.path == "plain"
    assert cost.layer_runs == cost.layer_runs_one_by_one == 32
    assert cost.seconds > 0
    assert cost.flops > 0


def _unreplayable(forward):
    calls = [0]

    def counted(hidden, stream):
        calls[0] += 1
        return forward(hidden + 1e-2 * np.sin(calls[0]), stream)

    return counted


def test_a_callable_has_no_known_cost(stories, stories_calibration):
    with pytest.raises(ValueError, match="plain callable"):
        LayerGame(stories[0], stories_calibration, utility=lambda model: 0.0).estimate_cost(all_masks(5))


@pytest.mark.parametrize("selector", [None, ShapleyRanking()])
def test_a_fit_costs_no_more_than_told(stories, stories_calibration, selector):
    pruner = LayerPruner(n_masks=20, max_remove=2, selector=selector, confidence=1.0, random_state=0)
    cost = pruner.estimate_cost(stories[0], stories_calibration)
    assert not hasattr(pruner, "masks_")
    pruner.fit(stories[0], stories_calibration)
    assert pruner.diagnostics_["n_evaluated"] <= cost.n_masks <= 22
    assert pruner.diagnostics_["layer_runs"] <= cost.layer_runs < cost.layer_runs_zeroed


def test_further_parts_of_the_text_are_told_too(gpt2):
    model, tokenizer = gpt2
    calibration = Calibration.from_texts(load_calibration_text(), tokenizer, seq_len=32, n_sequences=32)
    pruner = LayerPruner(max_remove=3, random_state=0)
    cost = pruner.estimate_cost(model, calibration)
    parts = cost.further
    assert [part.n_tokens for part in (cost, *parts)] == [4 * 32, 4 * 32, 8 * 32, 8 * 32, 8 * 32]
    masks = [part.n_masks for part in (cost, *parts)]
    assert masks == sorted(masks, reverse=True)
    assert masks[-1] == 1 + 3 * 3  # the model as it is, and 3 sets of each size
    assert cost.layer_run_tokens == sum(part.layer_runs * part.n_tokens for part in (cost, *parts))
    assert cost.total_seconds == pytest.approx(sum(part.seconds for part in (cost, *parts)))
    assert str(cost).count("further tokens") == 4
    pruner.fit(model, calibration)
    assert 0.3 < pruner.diagnostics_["layer_run_tokens"] / cost.layer_run_tokens < 1.5

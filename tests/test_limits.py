"""Edges of a game: limits as NumPy gives them, control groups, no masks, broken models, labels, skeletons."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from layershap import (
    Calibration,
    LayerGame,
    LayerPruner,
    UnsupportedModelError,
    find_sublayers,
    inspect,
    remove_layers,
)
from layershap.calibration import IGNORE
from layershap.forward.head import sequence_sums
from layershap.forward.memory import cgroup_limits
from layershap.forward.unmasked import sequence_statistics
from layershap.limits import check_int, check_max_remove, check_n_remove, most_removable, resolved_max_remove
from layershap.masks import distinct
from layershap.utilities import KLDivergence, PerplexityRatio

MASKS = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 1]], dtype=bool)


def test_numpy_integers_are_integers(stories, stories_calibration):
    settings = {"batch_tokens": np.int64(64), "memory_budget": np.int32(10**6)}
    game = LayerGame(stories[0], stories_calibration, **settings)
    assert (game.engine.settings.batch_tokens, game.engine.settings.memory_budget) == (64, 10**6)
    wrongs = ((0, ValueError), (np.int64(-1), ValueError), (2.0, TypeError), (True, TypeError), ("all", TypeError))
    for wrong, error in wrongs:
        with pytest.raises(error, match="batch_tokens must be an int of at least 1, or 'auto', got"):
            LayerGame(stories[0], stories_calibration, batch_tokens=wrong)
    with pytest.raises(TypeError, match=r"got the int 1; write \[1\]"):
        LayerPruner(protect=np.int64(1)).fit(stories[0], stories_calibration)


def test_memory_limits_of_control_groups(tmp_path):
    own, root = tmp_path / "own", tmp_path / "fs"
    inner = root / "jobs" / "one"
    inner.mkdir(parents=True)
    own.write_text("0::/jobs/one\n")
    assert list(cgroup_limits(own, root)) == []
    (inner / "memory.max").write_text("max\n")
    (root / "jobs" / "memory.max").write_text("4096\n")
    assert list(cgroup_limits(own, root)) == [4096]
    own.write_text("0::/a/path/of/the/host\n")
    (root / "memory.max").write_text("8192\n")  # in a container, its own group is the root
    assert list(cgroup_limits(own, root)) == [8192]
    (root / "memory" / "batch").mkdir(parents=True)
    (root / "memory" / "batch" / "memory.limit_in_bytes").write_text("1024\n")
    own.write_text("4:cpu,cpuacct:/\n3:memory:/batch\n")
    assert list(cgroup_limits(own, root)) == [1024]
    assert list(cgroup_limits(tmp_path / "missing", root)) == []


@pytest.mark.parametrize("utility", [PerplexityRatio(), KLDivergence(), lambda model: 1.0])
def test_no_masks_have_no_scores(stories, stories_calibration, utility):
    game = LayerGame(stories[0], stories_calibration, utility=utility)
    none = np.empty((0, 5), dtype=bool)
    assert game(none).shape == (0,)
    assert game.n_evaluated == game.layer_runs == 0
    if not callable(utility):
        assert game.plan(none).n_masks == 0
        assert game.statistics(none).sums[utility.statistics[0]].shape == (0, stories_calibration.n_sequences)
        assert game.estimate_cost(none).layer_runs == 0
    with pytest.raises(ValueError, match=r"\[M, 5\]"):
        game([])


def test_distinct_masks_are_sorted_rows():
    masks = np.random.default_rng(0).random((200, 6)) < 0.5
    assert np.array_equal(distinct(masks), np.unique(masks, axis=0))


def test_a_broken_dense_model_is_no_perfect_one(stories, stories_calibration):
    model = deepcopy(stories[0])
    model.model.layers[1].mlp.down_proj.weight.data[:] = float("nan")
    for utility in (KLDivergence(), KLDivergence(top_k=5)):
        assert np.isnan(LayerGame(model, stories_calibration, utility=utility)(MASKS)).all()


@pytest.mark.parametrize(
    ("statistic", "broken"),
    [(name, "model") for name in ("nll", "hits", "kl", "kl_top2")] + [("kl", "dense"), ("kl_top2", "dense")],
)
def test_nan_logits_give_nan(statistic, broken):
    logits, dense = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    (dense if broken == "dense" else logits)[1, 1, 5] = float("nan")
    labels = torch.zeros(2, 3, dtype=torch.long)
    found = sequence_sums(logits, labels, [statistic], dense)[statistic]
    assert torch.isfinite(found[0])
    assert torch.isnan(found[1])
    labels[1, 1] = IGNORE  # what isn't scored doesn't count
    assert torch.isfinite(sequence_sums(logits, labels, [statistic], dense)[statistic]).all()


def test_impossible_tokens_are_no_divergence():
    dense = torch.tensor([[[0.0, 1.0, -torch.inf]]])
    found = sequence_sums(dense.clone(), torch.zeros(1, 1, dtype=torch.long), ["kl"], dense)
    assert found["kl"].item() == 0


@pytest.mark.parametrize("label", [10**6, -1])
def test_labels_are_tokens_of_the_vocabulary(stories, stories_calibration, label):
    labels = stories_calibration.labels_ST.clone()
    labels[2, 7] = label
    with pytest.raises(ValueError, match=r"labels must be"):
        LayerGame(stories[0], Calibration(stories_calibration.ids_ST, labels))


# -- models on the meta device ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twins():
    """A model and its skeleton."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=5, num_attention_heads=2
    )
    with torch.device("meta"):
        skeleton = LlamaForCausalLM(config)
    return LlamaForCausalLM(config).eval(), skeleton


IDS = torch.arange(8, 40).reshape(4, 8)


def test_a_skeleton_can_be_inspected_and_its_cost_be_estimated(twins):
    model, skeleton = twins
    real, empty = inspect(model), inspect(skeleton)
    assert empty.layers == real.layers
    assert (empty.forward, empty.path) == ("fused", "model.layers")
    assert "meta device" in empty.forward_note
    assert find_sublayers(skeleton).names == find_sublayers(model).names
    costs = [LayerGame(m, IDS).estimate_cost(MASKS) for m in twins]
    for field in ("n_masks", "layer_runs", "flops", "peak_bytes", "path", "n_tokens"):
        assert getattr(costs[1], field) == getattr(costs[0], field), field
    assert costs[1].seconds is costs[1].total_seconds is None
    assert "seconds unknown on the meta device" in str(costs[1])
    assert LayerPruner(random_state=0).estimate_cost(skeleton, IDS).total_seconds is None


def test_what_needs_values_names_the_meta_device(twins):
    _, skeleton = twins
    for call in (
        lambda: LayerGame(skeleton, IDS)(MASKS),
        lambda: LayerPruner().fit(skeleton, IDS),
        lambda: remove_layers(skeleton, [1]),
        lambda: sequence_statistics(skeleton, Calibration(IDS, IDS), ("nll",)),
    ):
        with pytest.raises(UnsupportedModelError, match="on the meta device"):
            call()
    assert len(remove_layers(skeleton, [1], check=False).model.layers) == 4


def test_one_check_of_ints_names_the_parameter_its_range_and_what_it_got():
    assert type(check_int("n", np.int32(3), 1, 3)) is int
    assert check_int("n", -7) == -7
    for wrong, error, message in (
        ((2.0,), TypeError, r"n must be an int, got 2\.0"),
        ((np.bool_(True), 0), TypeError, r"n must be an int of at least 0, got (np\.True_|True)"),
        ((None, 1, 4), TypeError, r"n must be an int in \[1, 4\], got None"),
        ((5, 1, 4), ValueError, r"n must be an int in \[1, 4\], got 5"),
        (("3", 1), TypeError, "n must be an int of at least 1, got '3'"),
    ):
        with pytest.raises(error, match=rf"^{message}$"):
            check_int("n", *wrong)
    with pytest.raises(ValueError, match=r"^n must be an int of at least 1, or 'auto' \(of tokens\), got 0$"):
        check_int("n", 0, 1, other="'auto'", meaning="of tokens")


def test_one_rule_for_how_many_layers_can_go():
    five_of_six = np.array([True, True, True, True, True, False])
    assert most_removable(6, 6) == 5  # one layer stays
    assert [resolved_max_remove(None, players, 6) for players in (1, 2, 4, 6)] == [1, 2, 3, 4]
    assert check_n_remove(0.5, five_of_six) == 3  # a fraction is one of all layers
    assert check_n_remove(0.01, five_of_six) == 1
    with pytest.raises(ValueError, match=r"n_remove must lie in \[1, 5\] .* 5 of them removable; got 6"):
        check_n_remove(6, five_of_six)
    with pytest.raises(ValueError, match=r"n_remove=5 exceeds max_remove=4, .* give max_remove=5"):
        check_max_remove(None, 5, five_of_six)

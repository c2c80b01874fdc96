"""Edges of a game: control groups, no masks, broken models, labels, skeletons."""

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
from layershap.masks import distinct
from layershap.utilities import KLDivergence, PerplexityRatio

MASKS = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 1]], dtype=bool)


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

"""Sublayers as players: skipped, scored, removed and saved, on real weights and on tiny models of many families."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from layershap import (
    LayerGame,
    LayerPruner,
    find_layers,
    find_sublayers,
    remove_layers,
    remove_sublayers,
    shapley,
    skip_layers,
    skip_sublayers,
)
from layershap.checkpoint import load_pruned, save_pruned
from layershap.exceptions import (
    CheckpointWarning,
    LayerNotRemovableError,
    LedgerMismatchError,
    UnsupportedModelError,
)
from layershap.inspection import inspect
from layershap.surgery import keep_one_of, unremovable_players
from layershap.utilities import NegativeLogLikelihood

from .architectures.build import build
from .architectures.matrix import difference, generates_with_cache
from .helpers.models import load_stories
from .helpers.surgery import generate, logits

# Sequential and parallel blocks, residuals added inside (bloom, mpt), a feed-forward part of two modules (opt), norms
# after the sublayers (olmo2), two mixers side by side (falcon_h1), hybrids, two kinds of attention, recurrent states.
FAMILIES = [
    "bloom", "cohere", "falcon_h1", "gemma3_text", "gpt2", "gptj", "granitemoehybrid", "jamba", "lfm2", "mixtral",
    "mpt", "olmo2", "opt", "qwen3_next", "recurrent_gemma", "rwkv", "xlstm",
]  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore::layershap.exceptions.CheckpointWarning")


def test_players_are_named_in_the_order_in_which_they_run():
    model = load_stories()
    stack = find_sublayers(model)
    assert stack.names == tuple(f"{i}.{kind}" for i in range(5) for kind in ("mixer", "feed_forward"))
    assert [part.name for part in stack.sublayers[0].parts + stack.sublayers[1].parts] == ["self_attn", "mlp"]
    assert stack.path == find_layers(model).path


@pytest.mark.parametrize(
    ("player", "projection"), [(4, "self_attn.o_proj"), (5, "mlp.down_proj"), (-6, "self_attn.o_proj")]
)
def test_skipping_a_sublayer_is_a_zero_projection_that_is_not_computed(player, projection):
    model, zeroed = load_stories(), load_stories()
    zeroed.model.layers[2].get_submodule(projection).weight.data.zero_()
    ran: list[str] = []
    for name, module in model.model.layers[2].named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    with skip_sublayers(model, [player]):
        ran.clear()  # what the probe ran
        assert torch.equal(logits(model), logits(zeroed))
    assert not [name for name in ran if name.startswith(projection.split(".")[0] + ".")]
    assert len(ran) > 5


def test_skipping_both_sublayers_is_skipping_the_layer():
    model = load_stories()
    with skip_layers(model, [1, 3]):
        expected = logits(model)
    with skip_sublayers(model, [2, 3, 6, 7]):
        assert torch.equal(logits(model), expected)
    assert all("forward" not in vars(module) for module in model.modules())


@pytest.mark.parametrize("removed", [[0], [1], [0, 2, 4], [0, 2, 4, 6], [1, 3, 5, 7, 9], [0, 2, 3, 9]], ids=str)
def test_removed_is_skipped_generates_and_reloads(removed, tmp_path):
    model = load_stories()
    with skip_sublayers(model, removed):
        expected = logits(model)
    with pytest.warns(CheckpointWarning, match="missing sublayer"):
        pruned = remove_sublayers(model, removed, check=True)
    assert torch.equal(logits(pruned), expected)
    with_cache = generate(pruned, use_cache=True)
    assert torch.equal(with_cache, generate(pruned, use_cache=False))

    modules = [part.module for sublayer in find_sublayers(model).sublayers for part in sublayer.parts]
    own = [sum(p.numel() for p in module.parameters()) for module in modules]
    norms = 2 * model.config.hidden_size * (len(model.model.layers) - len(pruned.model.layers))
    assert model.num_parameters() - pruned.num_parameters() == sum(own[i] for i in removed) + norms

    again = load_pruned(save_pruned(pruned, tmp_path))
    assert torch.equal(logits(again), expected)
    assert torch.equal(generate(again, use_cache=True), with_cache)
    assert again.num_parameters() == pruned.num_parameters()


def test_removal_in_place_and_step_by_step(tmp_path):
    model = load_stories()
    with skip_sublayers(model, [0, 4, 5, 9]):
        expected = logits(model)
    text = generate(remove_sublayers(model, [0, 4, 5, 9]), use_cache=True)
    whole = load_stories()
    once = remove_sublayers(whole, [0, 9], copy=False)
    assert once is whole
    twice = remove_layers(once, [2], copy=False, check=True)
    assert torch.equal(logits(twice), expected)
    assert torch.equal(generate(twice, use_cache=True), text)
    other = remove_sublayers(remove_layers(load_stories(), [2]), [0, 7])
    assert torch.equal(logits(other), expected)
    for name, pruned in (("a", twice), ("b", other)):
        assert torch.equal(logits(load_pruned(save_pruned(pruned, tmp_path / name))), expected)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_families(model_type, tmp_path):
    model = build(model_type)
    stack = find_sublayers(model)
    assert {sublayer.kind for sublayer in stack.sublayers} >= {"mixer", "feed_forward"}
    stays = set(unremovable_players(model, stack)) | {group[-1] for group in keep_one_of(model, stack)}
    mixers = [i for i, sublayer in enumerate(stack.sublayers) if sublayer.kind == "mixer" and i not in stays]
    removed = [*mixers[:2], *(i + 1 for i in mixers[1:])]
    with skip_sublayers(model, removed, stack=stack):
        expected = logits(model)
    pruned = remove_sublayers(model, removed, stack=stack)
    assert difference(logits(pruned), expected) <= (1e-3 if model_type == "rwkv" else 1e-6)
    assert generates_with_cache(model) == generates_with_cache(pruned)
    assert difference(logits(load_pruned(save_pruned(pruned, tmp_path))), logits(pruned)) <= 1e-6


@pytest.mark.parametrize(("model_type", "path"), [("llama", "fused"), ("jamba", "fused"), ("gptj", "plain")])
def test_the_game_scores_what_skipping_computes(model_type, path):
    model = build(model_type)
    ids = torch.randint(5, 100, (3, 14), generator=torch.Generator().manual_seed(0))
    masks = np.random.default_rng(0).random((5, 12)) < 0.6
    with LayerGame(model, ids, utility=NegativeLogLikelihood(), granularity="sublayer") as game:
        scores = game(masks)
        assert game.path == path
    for mask, score in zip(masks, scores, strict=True):
        with torch.inference_mode(), skip_sublayers(model, np.flatnonzero(~mask), stack=game.stack):
            predictions = model(ids).logits[:, :-1].flatten(0, 1)
        assert score == pytest.approx(-float(nn.functional.cross_entropy(predictions, ids[:, 1:].flatten())), abs=1e-5)


def test_exact_shapley_values_of_ten_sublayers(stories_calibration):
    model = load_stories()
    with LayerGame(model, stories_calibration, utility=NegativeLogLikelihood(), granularity="sublayer") as game:
        assert game.n_players == 10
        values = shapley.exact(game)
        masks = np.array(list(itertools.product([False, True], repeat=10)))
        table = dict(zip(map(tuple, masks.tolist()), game(masks), strict=True))
    expected = np.zeros(10)
    for coalition, score in table.items():
        for player in range(10):
            if not coalition[player]:
                size = sum(coalition)
                weight = math.factorial(size) * math.factorial(9 - size) / math.factorial(10)
                joined = (*coalition[:player], True, *coalition[player + 1 :])
                expected[player] += weight * (table[joined] - score)
    assert np.allclose(values, expected, rtol=0, atol=1e-9)
    assert values.sum() == pytest.approx(table[(True,) * 10] - table[(False,) * 10])
    # Layers as players see the same model: a coalition of whole layers is worth the same in both games.
    with LayerGame(model, stories_calibration, utility=NegativeLogLikelihood()) as layers:
        kept = np.array(list(itertools.product([False, True], repeat=5)))
        assert np.allclose(layers(kept), [table[tuple(np.repeat(mask, 2))] for mask in kept], rtol=0, atol=1e-6)


def test_the_pruner_from_values_to_a_checkpoint(stories_calibration, tmp_path):
    model = load_stories()
    pruner = LayerPruner(granularity="sublayer", random_state=0, protect=[-1], max_remove=8)
    pruner.fit(model, stories_calibration)
    assert pruner.contributions_.shape == (10,)
    assert not pruner.removable_[9]
    removed = pruner.removed_layers(3)
    with skip_sublayers(model, removed):
        expected = logits(model)
    small = pruner.transform(model, n_remove=3)
    assert torch.equal(logits(small), expected)
    assert torch.equal(logits(load_pruned(save_pruned(small, tmp_path))), expected)
    for n_remove in range(1, 9):  # never all mixers
        pruner.transform(model, n_remove=n_remove)
    report = pruner.report_
    assert [layer.mixer == "none" for layer in report.layers] == [False, True] * 5
    assert report.removal(3).layers == tuple(removed)
    assert report.removal(3).n_parameters == small.num_parameters()
    with pytest.raises(ValueError, match="fitted on a model of 10 players"):
        pruner.transform(small, n_remove=1)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("bert", "passes through a norm"),
        ("mamba", "one sublayer only"),
        ("nemotron_h", "one sublayer only"),
        ("gemma4_text", "per_layer_input_gate"),
        ("xlm", "no list of decoder layers"),
    ],
)
def test_layers_that_are_no_sum_of_sublayers_are_refused(model_type, reason):
    with pytest.raises(UnsupportedModelError, match=reason):
        find_sublayers(build(model_type), causal=False)


def test_layers_that_cannot_be_split_stay_one_player():
    stack = find_sublayers(build("rwkv"))
    assert stack.names[:3] == ("0.layer", "1.mixer", "1.feed_forward")
    assert list(unremovable_players(build("rwkv"), stack)) == [0]


def test_one_mixer_of_each_kind_stays():
    model = build("gemma3_text")
    stack = find_sublayers(model)
    kinds = [layer.mixer for layer in inspect(model).layers]
    full = [2 * i for i, kind in enumerate(kinds) if kind == "full_attention"]
    assert tuple(full) in keep_one_of(model, stack)
    with pytest.raises(LayerNotRemovableError, match="at least one of the mixers"):
        remove_sublayers(model, full, stack=stack)
    remove_sublayers(model, [*full, *(i + 1 for i in full)], stack=stack)  # whole layers: their kind is gone with them
    with pytest.raises(LayerNotRemovableError, match="at least one of the mixers"):
        remove_sublayers(load_stories(), range(0, 10, 2))


@pytest.mark.parametrize(
    ("sublayers", "message"),
    [([], "at least one"), (range(10), "all of them"), ([10], r"\[0, 10\)"), ([9, -1], r"\[9\] twice")],
)
def test_bad_indices(sublayers, message):
    with pytest.raises(ValueError, match=message):
        remove_sublayers(load_stories(), sublayers)


def test_the_wrong_stack_or_granularity_is_refused(stories_calibration):
    model = load_stories()
    with pytest.raises(TypeError, match="remove_sublayers"):
        remove_layers(model, [0], stack=find_sublayers(model))
    with pytest.raises(ValueError, match="granularity"):
        LayerGame(model, stories_calibration, granularity="head")


def test_inspect_sees_what_is_gone():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", CheckpointWarning)
        found = inspect(remove_sublayers(load_stories(), [0, 3]))
    assert [layer.mixer == "none" for layer in found.layers] == [True, False, False, False, False]
    assert [layer.feed_forward for layer in found.layers] == ["mlp", "none", "mlp", "mlp", "mlp"]


def test_a_ledger_of_layers_is_not_taken_for_one_of_sublayers(stories_calibration, tmp_path):
    model = load_stories()
    with LayerGame(model, stories_calibration, ledger=tmp_path / "ledger") as game:
        game(np.ones((1, 5), dtype=bool))
    with pytest.raises(LedgerMismatchError, match="granularity"):
        LayerGame(model, stories_calibration, ledger=tmp_path / "ledger", granularity="sublayer")

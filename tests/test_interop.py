"""shapiq plays our game and agrees with our values; exports name the layers that removal keeps."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import yaml

from layershap import LayerGame, MissingExtraError, remove_layers, shapley
from layershap.interop import llama_cpp_arguments, mergekit_config, to_shapiq


@pytest.fixture(scope="module")
def game(gpt2):
    """All 4,096 coalitions of the 12 layers, on few tokens."""
    from layershap import Calibration
    from layershap.datasets import load_calibration_text

    calibration = Calibration.from_texts(load_calibration_text(), gpt2[1], seq_len=24, n_sequences=1)
    game = LayerGame(gpt2[0], calibration)
    game(shapley.all_masks(12))
    return game


def by_player(values, n=12):
    return np.array([values[(player,)] for player in range(n)])


def test_kernel_shap_on_all_coalitions_is_exact(game):
    approximator = pytest.importorskip("shapiq.approximator")
    exact = shapley.exact(game)
    for played in (game, to_shapiq(game)):
        found = approximator.KernelSHAP(n=12, random_state=0).approximate(budget=4096, game=played)
        assert by_player(found) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("name", ["KernelSHAP", "PermutationSamplingSV"])
def test_estimates_agree_with_ours_within_their_error(game, name):
    """Our 64 permutations and repeated runs of shapiq's estimator: their difference in units of its error."""
    approximator = getattr(pytest.importorskip("shapiq.approximator"), name)
    ours = shapley.permutation(game, 64, rng=np.random.default_rng(0))
    runs = np.array(
        [
            by_player(approximator(n=12, random_state=seed).approximate(budget=800, game=to_shapiq(game)))
            for seed in range(6)
        ]
    )
    error = np.hypot(runs.std(axis=0, ddof=1) / np.sqrt(len(runs)), ours.standard_errors)
    z = (runs.mean(axis=0) - ours.values) / error
    assert np.abs(z).max() < 4
    assert np.sqrt(np.mean(z**2)) < 1.6
    # The efficiency axiom, on both sides.
    full, none = game(np.array([[True] * 12, [False] * 12]))
    assert ours.values.sum() == pytest.approx(full - none)
    assert runs.sum(axis=1) == pytest.approx(full - none)


def test_shapiq_game_is_normalised_and_named(game):
    pytest.importorskip("shapiq")
    played = to_shapiq(game)
    assert played.n_players == 12
    assert played(np.zeros(12, dtype=bool)) == pytest.approx(0)
    full, none = game(np.array([[True] * 12, [False] * 12]))
    assert played(np.ones((1, 12), dtype=bool)) == pytest.approx(full - none)
    one_gone = np.array([[layer != 3 for layer in range(12)]])
    everyone_else = tuple(f"layer {layer}" for layer in range(12) if layer != 3)
    assert played([everyone_else]) == pytest.approx(game(one_gone) - none)


def test_layers_that_must_run_are_no_players():
    pytest.importorskip("shapiq")

    class Game:
        n_players = 4
        unremovable = {1: "carries the input norm"}  # noqa: RUF012

        def __call__(self, masks):
            assert masks[:, 1].all()
            return masks @ np.array([1.0, 50.0, 2.0, 4.0])

    played = to_shapiq(Game())
    assert played.n_players == 3
    assert played(np.eye(3, dtype=bool)) == pytest.approx([1, 2, 4])
    assert played([("layer 2", "layer 3")]) == pytest.approx([6])


def test_without_shapiq_the_error_names_the_pip_command(game, monkeypatch):
    monkeypatch.setitem(sys.modules, "shapiq", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'layershap\[shapiq\]'"):
        to_shapiq(game)


@pytest.mark.parametrize("removed", [[3], [0, 1, 11], [2, 4, 6, 7], [0, 11], [*range(11)]])
def test_mergekit_slices_are_the_layers_that_stay(gpt2, removed):
    config = yaml.safe_load(mergekit_config(removed, 12, "org/it's a model", dtype="float16"))
    assert (config["merge_method"], config["dtype"]) == ("passthrough", "float16")
    kept = []
    for part in config["slices"]:
        (source,) = part["sources"]
        assert source["model"] == "org/it's a model"
        kept += range(*source["layer_range"])
    small = remove_layers(gpt2[0], removed)
    assert len(kept) == len(small.transformer.h)
    for ours, layer in zip(small.transformer.h, kept, strict=True):
        assert ours.ln_1.weight.equal(gpt2[0].transformer.h[layer].ln_1.weight)


def test_llama_cpp():
    assert llama_cpp_arguments([11, 3, 7], 12) == ["--prune-layers", "3,7,11"]
    assert llama_cpp_arguments(np.array([4]), 12) == ["--prune-layers", "4"]


def test_bad_removal_sets():
    with pytest.raises(ValueError, match="between 1 and 11"):
        llama_cpp_arguments([], 12)
    with pytest.raises(ValueError, match="12"):
        llama_cpp_arguments([12], 12)
    with pytest.raises(ValueError, match="at least one of the 12"):
        mergekit_config(range(12), 12, "a")
    with pytest.raises(ValueError, match="name or path"):
        mergekit_config([1], 12, "")

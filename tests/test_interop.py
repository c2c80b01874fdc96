"""shapiq plays our game and agrees with our values; exports name the layers that removal keeps."""

from __future__ import annotations

import json
import sys
import warnings

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import HfApi
from safetensors import safe_open
from transformers import (
    ApertusConfig,
    AutoConfig,
    AutoModelForCausalLM,
    DeepseekV3Config,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
)

from layershap import (
    CheckpointWarning,
    LayerGame,
    MissingExtraError,
    remove_layers,
    remove_sublayers,
    save_pruned,
    shapley,
)
from layershap.checkpoint import RECIPE_FILE
from layershap.interop import llama_cpp_arguments, mergekit_config, push_folder, to_shapiq


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


SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (LlamaConfig(**SIZES, num_hidden_layers=6), None),
        (Qwen2Config(**SIZES, num_hidden_layers=6), None),
        (GPT2Config(n_layer=6), None),
        (Gemma3TextConfig(**SIZES, num_hidden_layers=6), "layer_types"),
        (Gemma3Config(text_config={**SIZES, "num_hidden_layers": 6}), "layer_types"),
        (Lfm2Config(**SIZES, num_hidden_layers=6, full_attn_idxs=[2, 5]), "full_attn_idxs"),
        (DeepseekV3Config(**SIZES, num_hidden_layers=6), "first_k_dense_replace"),
        (ApertusConfig(**SIZES, num_hidden_layers=6), "activation's parameters"),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "to_dict") else str(value),
)
def test_llama_cpp_leaves_some_models_metadata_uncut(config, said):
    before = config.to_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert llama_cpp_arguments([1], 6) == ["--prune-layers", "1"]
        if said is None:
            assert llama_cpp_arguments([1], 6, config=config) == ["--prune-layers", "1"]
    if said is not None:
        with pytest.warns(CheckpointWarning, match=said):
            assert llama_cpp_arguments([1], 6, config=config) == ["--prune-layers", "1"]
    assert config.to_dict() == before


def fresh_keys(folder):
    """Names and shapes of the weights of a model that is built from the folder's config, tied ones once."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    tied = set(model.all_tied_weights_keys)
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_a_plain_folder_is_all_that_a_server_needs(kind, gpt2, tmp_path):
    """What vLLM and others read: the architecture by its name, a config without new fields, weights by the names and
    shapes that this config asks for.
    """
    kinds = ["sliding_attention", "full_attention"] * 3
    model = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_hidden_layers=6)),
        "gemma3": lambda: Gemma3ForCausalLM(
            Gemma3TextConfig(**SIZES, head_dim=8, num_hidden_layers=6, layer_types=kinds)
        ),
        "gpt2": lambda: gpt2[0],
    }[kind]()
    remove_layers(model, [1, 2]).save_pretrained(tmp_path / "small")
    model.save_pretrained(tmp_path / "whole")
    small, whole = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("small", "whole"))
    assert small["architectures"] == whole["architectures"]
    assert set(small) == set(whole)
    assert {path.name for path in (tmp_path / "small").iterdir()} == {
        path.name for path in (tmp_path / "whole").iterdir()
    }
    with safe_open(tmp_path / "small" / "model.safetensors", "pt") as weights:
        found = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    asked = fresh_keys(tmp_path / "small")
    prefix = model.base_model_prefix + "."
    assert {name.removeprefix(prefix): shape for name, shape in found.items()} == {
        name.removeprefix(prefix): shape for name, shape in asked.items()
    }


def test_a_folder_without_single_sublayers_is_none(tmp_path):
    """It needs `load_pruned`: no config has words for a layer that lacks its attention."""
    model = LlamaForCausalLM(LlamaConfig(**SIZES, num_hidden_layers=3))
    save_pruned(remove_sublayers(model, [2]), tmp_path)
    with pytest.raises((OSError, ValueError), match="load_pruned"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.fixture
def folder(gpt2, tmp_path):
    save_pruned(remove_layers(gpt2[0], [3, 4]), tmp_path / "small", tokenizer=gpt2[1])
    (tmp_path / "small" / "README.md").write_text("# small\n")
    return tmp_path / "small"


def test_a_folder_is_pushed_with_card_and_recipe_and_nothing_else(folder, monkeypatch):
    sent = {}
    monkeypatch.setattr(HfApi, "create_repo", lambda self, *given, **options: sent.update(created=(given, options)))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **options: sent.update(options))
    (folder / "ledger.jsonl").write_text("{}\n")
    (folder / ".hidden").write_text("secret")
    (folder / "checkpoint-1").mkdir()
    names = push_folder(folder, "me/small", dry_run=True)
    assert not sent
    assert {"config.json", "model.safetensors", "README.md", RECIPE_FILE, "tokenizer.json"} <= set(names)
    assert not {"ledger.jsonl", ".hidden"} & set(names)
    assert push_folder(folder, "me/small", private=True) == names
    assert sent["created"] == (("me/small",), {"private": True, "exist_ok": True})
    assert sent["allow_patterns"] == names
    assert "recipe" in sent["commit_message"]


@pytest.mark.parametrize("lost", ["README.md", "config.json", "model.safetensors"])
def test_a_folder_that_lacks_something_is_not_pushed(folder, lost):
    (folder / lost).unlink()
    with pytest.raises(FileNotFoundError, match=rf"it lacks .*{lost}"):
        push_folder(folder, "me/small", dry_run=True)
    with pytest.raises(FileNotFoundError, match="whole pruned model"):
        push_folder(folder / "nowhere", "me/small", dry_run=True)

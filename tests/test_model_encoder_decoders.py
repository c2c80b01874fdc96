"""Encoder-decoder models: either stack is scored on target tokens, pruned exactly and reloaded plainly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    LEDConfig,
    LEDForConditionalGeneration,
    NllbMoeConfig,
    NllbMoeForConditionalGeneration,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
)

from layershap import LayerGame, LayerPruner, find_layers, inspect, remove_layers, skip_layers
from layershap.baselines import SLEB, ShortGPT
from layershap.calibration import Calibration, from_targets
from layershap.checkpoint import load_pruned, save_pruned
from layershap.exceptions import (
    CheckpointWarning,
    GenerationCacheWarning,
    LayerNotRemovableError,
    UnsupportedModelError,
)
from layershap.forward.unmasked import sequence_statistics
from layershap.model.split import find_sublayers
from layershap.surgery import unremovable_layers
from layershap.surgery.recipe import keep_recipe, pruning_recipe

from .helpers.families import START, perturbed, seq2seq_batches, tiny_bart, tiny_t5, tiny_whisper

DECODERS = {tiny_t5: "decoder.block", tiny_bart: "model.decoder.layers", tiny_whisper: "model.decoder.layers"}
ENCODERS = {tiny_t5: "encoder.block", tiny_bart: "model.encoder.layers", tiny_whisper: "model.encoder.layers"}
CASES = [(make, layers) for side in (DECODERS, ENCODERS) for make, layers in side.items()]

each_stack = pytest.mark.parametrize(("make", "layers"), CASES, ids=[f"{m.__name__}-{p}" for m, p in CASES])
pytestmark = [
    pytest.mark.filterwarnings("error::layershap.exceptions.CheckpointWarning"),
    pytest.mark.filterwarnings("error::layershap.exceptions.UncheckedInputWarning"),
    pytest.mark.filterwarnings("ignore::layershap.exceptions.GenerationCacheWarning"),
    pytest.mark.filterwarnings("ignore::layershap.exceptions.PlainForwardWarning"),
    pytest.mark.filterwarnings("ignore::layershap.exceptions.SurrogateQualityWarning"),
    pytest.mark.filterwarnings("ignore::layershap.exceptions.ValueQualityWarning"),
]


def calibration(model: nn.Module) -> Calibration:
    return from_targets(seq2seq_batches(model), start_token=START)


def own_losses(model: nn.Module) -> np.ndarray:
    """Summed cross-entropy of each row's targets, by the model's own forward on the batches as they are."""
    found: list[float] = []
    for batch in seq2seq_batches(model):
        with torch.inference_mode():
            logits = model(**batch).logits
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"], reduction="none")
        found += losses.sum(dim=1).tolist()
    return np.array(found)


def logits_of_first_batch(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return model(**seq2seq_batches(model)[0]).logits.clone()


@each_stack
def test_scores_are_the_target_losses_of_the_model_without_the_layers(make, layers):
    model = make()
    with LayerGame(model, calibration(model), layers=layers) as game:
        mask = np.array([True, False, True, False])
        found = game.statistics(mask)
        assert (game.path, game.n_players) == ("plain", 4)
        assert "beside tokens" in game.path_note
    np.testing.assert_allclose(found.dense["nll"], own_losses(model), rtol=1e-5)
    pruned = remove_layers(model, [1, 3], stack=layers)
    np.testing.assert_allclose(found.sums["nll"][0], own_losses(pruned), rtol=1e-5)
    measured = sequence_statistics(pruned, calibration(model), ("nll",))
    np.testing.assert_allclose(measured.sums["nll"][0], own_losses(pruned), rtol=1e-5)
    assert found.counts.sum() == sum((batch["labels"] >= 0).sum() for batch in seq2seq_batches(model))


@each_stack
def test_a_fit_prunes_either_stack_and_plain_loading_gives_the_same_logits(make, layers, tmp_path):
    model = make()
    pruner = LayerPruner(layers=layers, n_masks=12, random_state=0).fit(model, calibration(model))
    first_stays = make is tiny_t5
    assert pruner.removable_.tolist() == [not first_stays, True, True, True]
    removed = pruner.removed_layers(1)
    with skip_layers(model, removed, stack=layers):
        expected = logits_of_first_batch(model)
    small = pruner.transform(model, n_remove=1)
    other = (ENCODERS if layers == DECODERS[make] else DECODERS)[make]
    assert (len(small.get_submodule(layers)), len(small.get_submodule(other))) == (3, 4)
    assert torch.equal(logits_of_first_batch(small), expected)
    small.save_pretrained(tmp_path)
    again = type(small).from_pretrained(tmp_path).eval()
    assert torch.equal(logits_of_first_batch(again), expected)
    assert torch.equal(logits_of_first_batch(load_pruned(save_pruned(small, tmp_path / "recipe"))), expected)


@pytest.mark.parametrize("make", [tiny_t5, tiny_bart, tiny_whisper])
def test_both_stacks_one_after_the_other_generate_with_a_cache(make, tmp_path):
    model = make()
    small = remove_layers(model, [1], stack=DECODERS[make], check=True)
    small = remove_layers(small, [2], stack=ENCODERS[make], check=True)
    small.save_pretrained(tmp_path)
    again = type(small).from_pretrained(tmp_path).eval()
    read = {name: value for name, value in seq2seq_batches(model)[0].items() if name != "labels"}
    runs = [
        each.generate(**read, max_new_tokens=6, min_new_tokens=6, do_sample=False, use_cache=use_cache)
        for each in (small, again)
        for use_cache in (True, False)
    ]
    assert all(torch.equal(run, runs[0]) for run in runs)


def test_an_encoder_shallower_than_its_decoder_is_warned_of_where_the_cache_goes_by_its_depth():
    model = tiny_t5(encoder_layers=4)
    with pytest.warns(GenerationCacheWarning, match=r"4 decoder layers.* 3: .*Remove 1 layers of the decoder"):
        small = remove_layers(model, [2], stack="encoder.block", check=True)
    read = {name: value for name, value in seq2seq_batches(model)[0].items() if name != "labels"}
    assert small.generate(**read, max_new_tokens=3, use_cache=False).shape[0] == 4
    with pytest.raises(IndexError):  # in transformers: once this passes, the warning can go
        small.generate(**read, max_new_tokens=3, use_cache=True)


@pytest.mark.parametrize("layers", ["encoder.block", "decoder.block"])
def test_the_layer_with_the_position_bias_stays(layers):
    model = tiny_t5()
    assert "position bias" in unremovable_layers(model, find_layers(model, layers))[0]
    with pytest.raises(LayerNotRemovableError, match="position bias"):
        remove_layers(model, [0], stack=layers)
    assert not inspect(model, layers, forward=False).layers[0].removable


def test_by_default_the_players_are_the_decoder():
    for make, path in DECODERS.items():
        assert find_layers(make()).path == path


@pytest.mark.parametrize("make", DECODERS)
def test_their_layers_are_players_as_a_whole(make):
    for use in (lambda: find_sublayers(make()), lambda: LayerGame(make(), calibration(make()), granularity="sublayer")):
        with pytest.raises(UnsupportedModelError, match="cross-attention"):
            use()


def test_a_stack_that_the_config_cant_express_must_be_the_last_one_pruned():
    model = tiny_bart()
    small = remove_layers(model, [1], stack="model.encoder.layers")
    keep_recipe(small, replace(pruning_recipe(small), plain=False))
    with pytest.raises(UnsupportedModelError, match=r"Prune model\.decoder\.layers first"):
        remove_layers(small, [1], stack="model.decoder.layers")


def test_a_ledger_knows_what_the_encoder_read(tmp_path):
    model = tiny_bart()
    batches = seq2seq_batches(model)
    path = tmp_path / "ledger.jsonl"
    with LayerGame(model, from_targets(batches, start_token=START), ledger=path) as game:
        score = game(np.array([True, False, True, True]))
    with LayerGame(model, from_targets(batches, start_token=START), ledger=path) as game:
        assert game(np.array([True, False, True, True])) == score
        assert game.n_evaluated == 0
    batches[0]["input_ids"][2, 2] += 1
    with pytest.raises(ValueError, match="calibration"):
        LayerGame(model, from_targets(batches, start_token=START), ledger=path)


@pytest.mark.parametrize("use", [LayerGame, LayerPruner(n_masks=8).fit, SLEB(n_remove=1).fit])
def test_targets_without_the_encoders_input_are_refused(use):
    with pytest.raises(UnsupportedModelError, match=r"from_targets"):
        use(tiny_bart(), torch.randint(5, 120, (2, 6)))


def test_lists_of_the_encoder_go_with_the_encoder(tmp_path):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_layers": 4, "decoder_layers": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = LEDConfig(
        vocab_size=128, **sizes, **heads, attention_window=[4, 8, 4, 16], max_encoder_position_embeddings=64
    )
    model = perturbed(LEDForConditionalGeneration(config))
    small = remove_layers(model, [1], stack="led.decoder.layers")
    assert small.config.attention_window == [4, 8, 4, 16]
    with skip_layers(small, [2], stack="led.encoder.layers"):
        expected = logits_of_first_batch(small)
    small = remove_layers(small, [2], stack="led.encoder.layers")
    assert small.config.attention_window == [4, 8, 16]
    assert torch.equal(logits_of_first_batch(small), expected)
    small.save_pretrained(tmp_path)
    again = LEDForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert torch.equal(logits_of_first_batch(again), expected)


@pytest.mark.parametrize("layers", ["model.encoder.layers", "model.decoder.layers"])
def test_two_configs_of_one_kind_are_told_apart(layers, tmp_path):
    torch.manual_seed(0)
    part = {"vocab_size": 128, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "head_dim": 8}
    part |= {"num_attention_heads": 2, "num_key_value_heads": 2, "sliding_window": 4}
    model = perturbed(T5GemmaForConditionalGeneration(T5GemmaConfig(encoder=part, decoder=part, vocab_size=128)))
    small = remove_layers(model, [1], stack=layers)
    depths = {side: getattr(small.config, side).num_hidden_layers for side in ("encoder", "decoder")}
    assert depths == {side: 3 if side in layers else 4 for side in depths}
    assert len(small.config.decoder.layer_types) == depths["decoder"]
    expected = logits_of_first_batch(small)
    small.save_pretrained(tmp_path)
    assert torch.equal(logits_of_first_batch(type(small).from_pretrained(tmp_path).eval()), expected)


def test_a_period_of_sparse_layers_that_doesnt_survive_is_warned_of(tmp_path):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_layers": 4, "decoder_layers": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_experts": 4}
    config = NllbMoeConfig(vocab_size=128, **sizes, **heads, encoder_sparse_step=2, decoder_sparse_step=2)
    model = NllbMoeForConditionalGeneration(config).eval()
    with skip_layers(model, [0]):
        expected = logits_of_first_batch(model)
    with pytest.warns(CheckpointWarning, match="is_sparse"):
        small = remove_layers(model, [0], check=True)
    assert small.config.decoder_sparse_step == 2
    assert torch.allclose(logits_of_first_batch(small), expected, atol=1e-6)
    again = load_pruned(save_pruned(small, tmp_path))
    assert torch.allclose(logits_of_first_batch(again), expected, atol=1e-6)


def test_a_name_that_nothing_in_the_model_takes_is_refused():
    batches = [{**batch, "input_idz": batch["input_ids"]} for batch in seq2seq_batches(tiny_bart())]
    with pytest.raises(UnsupportedModelError, match=r"takes no \['input_idz'\]"):
        LayerGame(tiny_bart(), from_targets(batches, start_token=START))


def test_methods_that_score_masked_models_serve_and_those_that_read_hidden_states_refuse():
    model = tiny_bart()
    small = SLEB(n_remove=1).fit(model, calibration(model)).transform(model)
    assert len(small.get_decoder().layers) == 3
    with pytest.raises(UnsupportedModelError, match="input_ids, attention_mask beside"):
        ShortGPT(n_remove=1).fit(model, calibration(model))

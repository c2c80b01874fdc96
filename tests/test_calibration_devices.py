"""Processors in place of tokenizers, models that need an image, and another default device than the models'."""

from __future__ import annotations

import warnings

import pytest
import torch

from layershap import (
    Calibration,
    CheckpointWarning,
    LayerGame,
    LayerPruner,
    UnsupportedModelError,
    evaluate,
    load_pruned,
    perplexity,
    remove_layers,
    save_pruned,
    tasks,
)
from layershap.calibration import as_calibration
from layershap.compensation import LinearRefit, ReplaceMe, Rescale
from layershap.fingerprint import weights_digest
from layershap.utilities import NegativeLogLikelihood

from .helpers.texts import TEXTS


@pytest.fixture
def elsewhere():
    """The meta device stands for a GPU: what is made there can't be read."""

    def run(results):
        torch.set_default_device("meta")
        try:
            return results()
        finally:
            torch.set_default_device(None)

    return run


def test_a_processor_serves_as_its_tokenizer(gpt2):
    from transformers import CLIPImageProcessor, LlavaProcessor

    model, tokenizer = gpt2
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
    )
    for bos in ("none", "text", "sequence"):
        by_processor, by_tokenizer = (Calibration.from_texts(TEXTS, t, bos=bos) for t in (processor, tokenizer))
        assert by_processor.digest == by_tokenizer.digest
    rows = [{"query": "The ship went to", "choices": ["sea", "land"], "gold": 0}]
    by_processor, by_tokenizer = (tasks.multiple_choice(rows, t) for t in (processor, tokenizer))
    assert by_processor.calibration.digest == by_tokenizer.calibration.digest
    scores = [evaluate(model, t, texts=TEXTS, n_sequences=2).scores for t in (processor, tokenizer)]
    assert scores[0] == scores[1]
    with pytest.raises(TypeError, match=r"got str; load it first: AutoTokenizer"):
        as_calibration(TEXTS, "gpt2")


def test_a_model_that_needs_an_image_says_so_and_its_language_model_is_taken():
    from transformers import Blip2Config, Blip2ForConditionalGeneration, IdeficsConfig, IdeficsForVisionText2Text

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"image_size": 16, "patch_size": 8}
    text = {"vocab_size": 60, "ffn_dim": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "hidden_size": 16}
    blip = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=sizes | vision,
            qformer_config=sizes | {"encoder_hidden_size": 16, "vocab_size": 50},
            text_config=text | {"model_type": "opt", "word_embed_proj_dim": 16},
        )
    ).eval()
    idefics = IdeficsForVisionText2Text(
        IdeficsConfig(**sizes | {"num_hidden_layers": 4}, vocab_size=60, vision_config=vision | {"embed_dim": 16})
    ).eval()
    ids = torch.arange(5, 45).reshape(2, 20)
    for model in (blip, idefics):
        with pytest.raises(UnsupportedModelError, match=r"can't run on token ids alone, it needs pixel_values.*Pass"):
            LayerGame(model, ids)
    assert LayerGame(blip.language_model, ids).n_players == 4


def test_another_default_device_than_the_models(stories, gpt2, elsewhere):
    model, tokenizer = stories[0], gpt2[1]
    ids = torch.randint(5, 500, (3, 16), generator=torch.Generator().manual_seed(0))
    rows = [{"query": "The ship went to", "choices": ["sea", "land"], "gold": 0}] * 2

    def results():
        return (
            as_calibration([{"input_ids": [[5, 6, 7]], "attention_mask": [[1, 1, 0]]}, {"input_ids": []}]).digest,
            perplexity(gpt2[0], TEXTS, tokenizer, n_sequences=2).value,
            evaluate(gpt2[0], tasks=[tasks.multiple_choice(rows, tokenizer)]).scores[0].value,
            remove_layers(model, [1]).config.num_hidden_layers,
            LayerPruner(n_masks=24, max_remove=2, random_state=0).fit(model, ids).removed_layers(2),
        )

    expected = results()
    assert elsewhere(results) == expected


@pytest.mark.filterwarnings("ignore::layershap.exceptions.CalibrationWarning")
def test_compensations_under_another_default_device(gpt2, elsewhere):
    text = Calibration.from_texts(TEXTS, gpt2[1], seq_len=16, n_sequences=8)

    def results():
        methods = (Rescale(), LinearRefit(ridges=(1.0,)), ReplaceMe())
        found = [remove_layers(gpt2[0], [3, 6], compensation=method, calibration=text) for method in methods]
        return [weights_digest(model) for model in found]

    expected = results()
    assert elsewhere(results) == expected


def test_ledgers_and_checkpoints_under_another_default_device(stories, elsewhere, tmp_path):
    model = stories[0]
    ids = torch.randint(5, 500, (3, 16), generator=torch.Generator().manual_seed(0))
    ledger = tmp_path / "l.jsonl"

    def results():
        with LayerGame(model, ids, utility=NegativeLogLikelihood(), ledger=ledger) as game:
            scores = game([[True, True, False, True, True]]).tolist()
        with warnings.catch_warnings():
            warnings.simplefilter("error", CheckpointWarning)
            pruned = remove_layers(model, [1])
        loaded = load_pruned(save_pruned(pruned, tmp_path / "small"))
        return scores, weights_digest(pruned), weights_digest(loaded)

    expected = results()
    assert expected[1] == expected[2]
    assert elsewhere(results) == expected

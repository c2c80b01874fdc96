"""Vision-language models calibrated on texts with images: scores, surgery and reload of what sees them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from layershap import Calibration, LayerGame, LayerPruner, remove_layers, skip_layers
from layershap.calibration import IGNORE
from layershap.exceptions import UnsupportedModelError
from layershap.forward.unmasked import sequence_statistics

from .helpers.families import image_batches, tiny_llava, tiny_qwen3_vl
from .helpers.models import STORIES

MODELS = {"llava": tiny_llava, "qwen3_vl": lambda: tiny_qwen3_vl("dense")}
INPUTS = {"llava": ("pixel_values",), "qwen3_vl": ("pixel_values", "image_grid_thw", "mm_token_type_ids")}

each_model = pytest.mark.parametrize("kind", MODELS)
pytestmark = [
    pytest.mark.filterwarnings("error::layershap.exceptions.CheckpointWarning"),
    pytest.mark.filterwarnings("ignore::layershap.exceptions.UncheckedInputWarning"),
    pytest.mark.filterwarnings("ignore::layershap.exceptions.PlainForwardWarning"),
    pytest.mark.filterwarnings("ignore::layershap.exceptions.SurrogateQualityWarning"),
    pytest.mark.filterwarnings("ignore::layershap.exceptions.ValueQualityWarning"),
]


def calibration(kind: str, model: nn.Module) -> Calibration:
    return Calibration.from_batches(image_batches(model), inputs=INPUTS[kind])


def own_logits(model: nn.Module) -> list[Tensor]:
    """By the model's own forward on the batches as they are, padded on the left."""
    with torch.inference_mode():
        return [
            model(**{name: value for name, value in batch.items() if name != "labels"}).logits.clone()
            for batch in image_batches(model)
        ]


def own_losses(model: nn.Module) -> np.ndarray:
    found: list[float] = []
    for batch, logits in zip(image_batches(model), own_logits(model), strict=True):
        targets = batch["labels"][:, 1:]
        losses = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), targets, reduction="none")
        found += losses.sum(dim=1).tolist()
    return np.array(found)


@each_model
def test_scores_are_the_losses_of_the_model_that_sees_the_images(kind):
    model = MODELS[kind]()
    n_layers = len(model.get_decoder().layers)
    mask = np.arange(n_layers) % 3 != 2
    with LayerGame(model, calibration(kind, model)) as game:
        found = game.statistics(mask)
        assert game.path == "plain"
        assert "pixel_values" in game.path_note
    np.testing.assert_allclose(found.dense["nll"], own_losses(model), rtol=1e-4)
    pruned = remove_layers(model, np.flatnonzero(~mask))
    np.testing.assert_allclose(found.sums["nll"][0], own_losses(pruned), rtol=1e-4)
    measured = sequence_statistics(pruned, calibration(kind, model), ("nll",))
    np.testing.assert_allclose(measured.sums["nll"], found.sums["nll"], rtol=1e-5)


@each_model
def test_a_fit_on_images_prunes_exactly_and_plain_loading_gives_the_same(kind, tmp_path):
    model = MODELS[kind]()
    pruner = LayerPruner(n_masks=16, max_remove=1, random_state=0).fit(model, calibration(kind, model))
    removed = pruner.removed_layers(1)
    with skip_layers(model, removed):
        expected = own_logits(model)
    small = pruner.transform(model, n_remove=1)
    assert all(torch.equal(a, b) for a, b in zip(own_logits(small), expected, strict=True))
    small.save_pretrained(tmp_path)
    again = type(small).from_pretrained(tmp_path).eval()
    assert all(torch.equal(a, b) for a, b in zip(own_logits(again), expected, strict=True))


@each_model
def test_a_ledger_knows_the_images(kind, tmp_path):
    model = MODELS[kind]()
    text = calibration(kind, model)
    mask = np.ones(len(model.get_decoder().layers), dtype=bool)
    mask[-1] = False
    with LayerGame(model, text, ledger=tmp_path / "ledger.jsonl") as game:
        score = game(mask)
    with LayerGame(model, calibration(kind, model), ledger=tmp_path / "ledger.jsonl") as game:
        assert (game(mask) == score).all()
        assert game.n_evaluated == 0
    others = {**text.inputs, "pixel_values": text.inputs["pixel_values"] + 1}
    changed = Calibration(text.ids_ST, text.labels_ST, text.provenance, others)
    with pytest.raises(ValueError, match="calibration"):
        LayerGame(model, changed, ledger=tmp_path / "ledger.jsonl")
    with LayerGame(model, changed) as game, LayerGame(model, text) as seen:
        assert game.statistics(mask).dense["nll"] != pytest.approx(seen.statistics(mask).dense["nll"], rel=1e-6)


def test_a_processors_tokens_for_images_are_not_scored():
    # A processor answers for its tokenizer, which transformers lets name the token of images.
    processor = AutoTokenizer.from_pretrained(STORIES, extra_special_tokens={"image_token": "<s>"})
    assert isinstance(processor.image_token_id, int)
    batch = image_batches(tiny_llava())[0]
    del batch["labels"]
    batch["input_ids"][batch["input_ids"] == 5] = processor.image_token_id
    found = Calibration.from_batches([batch], processor, inputs=("pixel_values",))
    stands = found.ids_ST == processor.image_token_id
    assert int(stands.sum()) == 12
    assert bool((found.labels_ST[stands] == IGNORE).all())
    assert int(found.counts_S.sum()) == 3 * 5 - 1
    assert not (Calibration.from_batches([batch], inputs=("pixel_values",)).labels_ST[stands] == IGNORE).any()


def test_the_vision_tower_is_no_player():
    with pytest.raises(UnsupportedModelError, match="called in the order"):
        LayerGame(tiny_llava(), calibration("llava", tiny_llava()), layers="model.vision_tower.encoder.layers")

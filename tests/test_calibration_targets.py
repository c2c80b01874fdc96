"""Calibration with what a model takes beside the tokens that it predicts: targets, images, values for each token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layershap.calibration import IGNORE, Calibration, as_calibration, from_targets

TEXT = torch.tensor([[5, 6, 7, 1], [8, 9, 1, 0]])
TARGETS = torch.tensor([[21, 22, 1], [23, 1, IGNORE]])
BATCH = {"input_ids": TEXT, "attention_mask": (TEXT != 0).long(), "labels": TARGETS}
PIXELS = torch.arange(2 * 3.0).reshape(2, 3)


def test_targets_follow_the_start_token_and_are_scored():
    found = from_targets([BATCH], start_token=0)
    assert found.ids_ST.tolist() == [[0, 21, 22, 1], [0, 23, 1, 0]]
    assert found.labels_ST.tolist() == [[IGNORE, 21, 22, 1], [IGNORE, 23, 1, IGNORE]]
    assert torch.equal(found.inputs["input_ids"], TEXT)
    assert list(found.inputs) == ["input_ids", "attention_mask"]
    moved = torch.tensor([[3, 21, 22], [3, 23, 1]])
    assert from_targets(BATCH | {"decoder_input_ids": moved}).ids_ST[:, 0].tolist() == [3, 3]


def test_batches_padded_to_different_lengths_become_one():
    longer = {name: torch.nn.functional.pad(value, (0, 2)) for name, value in BATCH.items() if name != "labels"}
    found = from_targets([BATCH, longer | {"labels": TARGETS[:, :2]}], start_token=0)
    assert found.inputs["input_ids"].shape == found.inputs["attention_mask"].shape == (4, 6)
    assert found.inputs["attention_mask"].sum(dim=1).tolist() == [4, 3, 4, 3]
    unmasked = [{"input_ids": TEXT, "labels": TARGETS}, {"input_ids": TEXT[:, :3], "labels": TARGETS}]
    with pytest.raises(ValueError, match="or an attention_mask beside it"):
        from_targets(unmasked, start_token=0)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "empty"),
        ([{"input_ids": TEXT}], "'labels'"),
        ([{"labels": TARGETS}], "what the encoder reads"),
        ([TEXT], "mapping with 'labels'"),
        ([BATCH | {"labels": torch.tensor([[IGNORE, 4], [2, 3]])}], "behind them only"),
        ([BATCH | {"labels": torch.full((2, 3), IGNORE)}], "behind them only"),
        ([BATCH | {"decoder_input_ids": TARGETS}], "moved by one position"),
        ([BATCH, {"input_features": torch.zeros(2, 3), "labels": TARGETS}], "the same inputs"),
        ([BATCH | {"input_ids": TEXT[:1]}], "a row for each of 2 sequences"),
    ],
)
def test_targets_that_say_too_little_are_refused(batches, message):
    with pytest.raises(ValueError, match=message):
        from_targets(batches, start_token=0)


def test_a_start_token_is_needed():
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        from_targets([BATCH])


def test_inputs_go_with_their_sequences_and_lose_their_padding():
    ids = torch.tensor([[0, 0, 7, 9, 9, 8], [5, 9, 9, 6, 7, 8]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": (ids == 9).long(), "pixel_values": PIXELS}
    longer = {name: torch.cat([value, value[:, -1:]], dim=1) for name, value in batch.items() if name != "pixel_values"}
    longer["pixel_values"] = PIXELS + 10
    found = Calibration.from_batches([batch, longer], inputs=("pixel_values", "token_type_ids"))
    assert found.ids_ST[0].tolist() == [7, 9, 9, 8, 0, 0, 0]
    assert found.inputs["token_type_ids"].tolist() == ((found.ids_ST == 9).long()).tolist()
    taken = found.take(torch.tensor([3, 0]))
    assert taken.inputs["pixel_values"].tolist() == [[13, 14, 15], [0, 1, 2]]
    both = Calibration.concatenate([taken, found])
    assert torch.equal(both.inputs["pixel_values"][2:], found.inputs["pixel_values"])
    assert "pixel_values" in repr(found)
    assert "(4, 3)" in found._repr_html_()


def test_several_rows_of_an_input_for_each_sequence_stay_together():
    patches = torch.arange(6.0)[:, None]  # three of each image
    found = Calibration(TEXT, TEXT, inputs={"pixel_values": patches})
    assert found.take(np.array([1])).inputs["pixel_values"].flatten().tolist() == [3, 4, 5]


def test_images_of_several_sizes_are_refused_though_their_patches_can_be_shared_out():
    """The patches of two images, 2 x 2 and 2 x 4: six rows each by their number, but not by what they show."""
    patches = torch.arange(12.0)[:, None]
    grids = torch.tensor([[1, 2, 2], [1, 2, 4]])
    with pytest.raises(ValueError, match=r"as many patches for each sequence, got \[4, 8\].*for each size"):
        Calibration(TEXT, TEXT, inputs={"pixel_values": patches, "image_grid_thw": grids})
    # Two images of each sequence, in another order.
    both = torch.cat([grids, grids.flip(0)])
    Calibration(TEXT, TEXT, inputs={"pixel_values": patches.repeat(2, 1), "image_grid_thw": both})


def test_the_digest_covers_names_shapes_and_values():
    def digest(**inputs: torch.Tensor) -> str:
        return Calibration(TEXT, TEXT, inputs=inputs).digest

    changed = PIXELS.clone()
    changed[1, 2] += 1e-3
    digests = [
        Calibration(TEXT, TEXT).digest,
        digest(pixel_values=PIXELS),
        digest(images=PIXELS),
        digest(pixel_values=changed),
        digest(pixel_values=PIXELS.double()),
        digest(pixel_values=PIXELS[:, :, None]),
        digest(pixel_values=PIXELS.bfloat16()),
    ]
    assert len(set(digests)) == len(digests)
    assert digest(a=PIXELS, b=changed) == digest(b=changed, a=PIXELS)


def test_images_that_nobody_asked_for_are_not_dropped_silently():
    batch = {"input_ids": TEXT, "pixel_values": PIXELS}
    for read in (lambda: as_calibration([batch]), lambda: Calibration.from_batches([batch])):
        with pytest.raises(ValueError, match=r"inputs=\('pixel_values'"):
            read()
    with pytest.raises(ValueError, match="must have the inputs"):
        Calibration.from_batches([{"input_ids": TEXT}], inputs=("pixel_values",))
    wider = {"input_ids": TEXT, "pixel_values": torch.zeros(2, 5)}
    with pytest.raises(ValueError, match="one shape for all"):
        Calibration.from_batches([batch, wider], inputs=("pixel_values",))
    with pytest.raises(TypeError, match="must be a tensor"):
        Calibration(TEXT, TEXT, inputs={"pixel_values": [1, 2]})

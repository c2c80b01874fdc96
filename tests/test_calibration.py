"""Calibration data in all the forms a user has it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from layershap import Calibration, LayerGame
from layershap.calibration import IGNORE, as_calibration, mixed_texts
from layershap.datasets import load_calibration_text, load_evaluation_text
from layershap.exceptions import CalibrationWarning

TEXTS = load_calibration_text()


def test_texts_are_packed_into_full_sequences(gpt2):
    tokenizer = gpt2[1]
    found = Calibration.from_texts(TEXTS[:2], tokenizer, seq_len=32, n_sequences=None)
    stream = tokenizer(TEXTS[0])["input_ids"] + tokenizer(TEXTS[1])["input_ids"]
    assert found.ids_ST.flatten().tolist() == stream[: len(stream) // 32 * 32]
    assert found.counts_S.tolist() == [31] * found.n_sequences
    assert found.provenance["bos"] == "none"


def test_defaults_are_taken_over_the_whole_text(gpt2):
    found = as_calibration(TEXTS, gpt2[1])
    assert found.ids_ST.shape == (128, 128)
    everything = Calibration.from_texts(TEXTS, gpt2[1], n_sequences=None).ids_ST
    picked = np.arange(128) * len(everything) // 128
    assert torch.equal(found.ids_ST, everything[picked])


def test_bos_policies(gpt2):
    tokenizer = gpt2[1]
    each = Calibration.from_texts(TEXTS[:1], tokenizer, seq_len=16, n_sequences=3, bos="sequence")
    assert each.ids_ST[:, 0].tolist() == [tokenizer.bos_token_id] * 3
    assert each.ids_ST.shape == (3, 16)
    text = Calibration.from_texts(TEXTS[:1], tokenizer, seq_len=16, n_sequences=None, bos="text")
    assert (text.ids_ST == tokenizer.bos_token_id).sum() == 1
    assert text.ids_ST[0, 0] == tokenizer.bos_token_id


def test_dataset_column_is_found_or_named(gpt2):
    tokenizer = gpt2[1]
    expected = Calibration.from_texts(TEXTS[:3], tokenizer, n_sequences=2)
    only = Dataset.from_dict({"id": [1, 2, 3], "story": TEXTS[:3]})
    several = Dataset.from_dict({"title": ["a", "b", "c"], "story": TEXTS[:3]})
    assert torch.equal(Calibration.from_dataset(only, tokenizer, n_sequences=2).ids_ST, expected.ids_ST)
    named = Calibration.from_dataset(several, tokenizer, column="story", n_sequences=2)
    assert torch.equal(named.ids_ST, expected.ids_ST)
    with pytest.raises(ValueError, match="which column"):
        as_calibration(several, tokenizer)
    with pytest.raises(ValueError, match="column must be one of"):
        Calibration.from_dataset(several, tokenizer, column="text")


def test_dataloader_and_tokenised_dataset_and_tensor():
    ids = torch.arange(40).reshape(4, 10)
    loader = DataLoader([{"input_ids": row, "attention_mask": torch.ones(10, dtype=torch.long)} for row in ids], 2)
    dataset = Dataset.from_dict({"input_ids": ids.tolist()})
    for data in (loader, dataset, ids, ids.numpy(), {"input_ids": ids}, [ids[:2], ids[2:]]):
        found = as_calibration(data)
        assert torch.equal(found.ids_ST, ids)
        assert found.counts_S.tolist() == [9] * 4


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_never_counts_and_never_changes_another_tokens_result(stories, side):
    model, _ = stories
    short, long = torch.tensor([5, 9, 33, 20, 41, 300]), torch.tensor([7, 80, 12, 44, 9, 200, 31, 28, 64])
    pad = torch.full((3,), 2)
    ones, zeros = torch.ones(6, dtype=torch.long), torch.zeros(3, dtype=torch.long)
    row, mask = (
        (torch.cat([pad, short]), torch.cat([zeros, ones]))
        if side == "left"
        else (torch.cat([short, pad]), torch.cat([ones, zeros]))
    )
    batch = {"input_ids": torch.stack([row, long]), "attention_mask": torch.stack([mask, torch.ones(9, dtype=int)])}
    masks = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0]], dtype=bool)
    together = LayerGame(model, as_calibration(batch)).statistics(masks)
    alone = [LayerGame(model, ids[None]).statistics(masks) for ids in (short, long)]
    assert together.counts.tolist() == [5, 8]
    for index, single in enumerate(alone):
        assert together.sums["nll"][:, index] == pytest.approx(single.sums["nll"][:, 0], abs=1e-4)


def test_labels_choose_what_counts(stories):
    model, _ = stories
    ids = torch.tensor([[5, 9, 33, 20, 41, 300]])
    labels = ids.clone()
    labels[0, :4] = IGNORE
    full = LayerGame(model, {"input_ids": ids, "labels": ids.clone()}).statistics(np.ones((1, 5), bool))
    part = LayerGame(model, {"input_ids": ids, "labels": labels}).statistics(np.ones((1, 5), bool))
    with torch.inference_mode():
        log_probs = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    assert full.counts[0] == 5
    assert part.counts[0] == 2
    assert full.sums["nll"][0, 0] == pytest.approx(-log_probs.sum().item(), abs=1e-4)
    assert part.sums["nll"][0, 0] == pytest.approx(-log_probs[3:].sum().item(), abs=1e-4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no batches"),
        (None, "required"),
        (torch.empty(0, 8, dtype=torch.long), "at least one sequence"),
        (torch.ones(2, 1, dtype=torch.long), "at least one sequence"),
        (torch.ones(2, 8), "integer token ids"),
        (torch.ones(8, dtype=torch.long), r"\[S, T\]"),
        ([{"tokens": [1, 2]}], "'input_ids'"),
        ({"input_ids": [[1, 2, 3]], "attention_mask": [[1, 0, 1]]}, "holes"),
        ({"input_ids": [[1, 2, 3]], "labels": [[1, IGNORE, IGNORE]]}, "at least one sequence"),
        (["some text"], "need a tokenizer"),
    ],
)
def test_bad_data(data, message):
    with pytest.raises(ValueError, match=message):
        as_calibration(data)


def test_too_short_text_says_how_much_there_is(gpt2):
    with pytest.raises(ValueError, match="have 2 tokens, enough for 0"):
        as_calibration(["It was"], gpt2[1])
    with pytest.raises(TypeError, match="must be texts"):
        as_calibration(5)
    with pytest.raises(TypeError, match="texts must be strings"):
        as_calibration(["a", 5], gpt2[1])


def test_bos_without_a_bos_token(gpt2):
    class NoBos:
        bos_token_id = None

        def __call__(self, text, **kwargs):
            return gpt2[1](text, **kwargs)

    with pytest.raises(ValueError, match="bos_token"):
        Calibration.from_texts(TEXTS, NoBos(), bos="sequence")


def test_token_ids_outside_the_vocabulary(stories):
    with pytest.raises(ValueError, match=r"\[0, 512\).*Was another tokenizer used"):
        LayerGame(stories[0], torch.tensor([[1, 2, 600]]))


def test_sequences_longer_than_the_models_positions(gpt2):
    with pytest.raises(ValueError, match="256 positions"):
        LayerGame(gpt2[0], torch.ones(1, 300, dtype=torch.long))


def test_bundled_texts_are_disjoint():
    assert not set(TEXTS) & set(load_evaluation_text())
    assert sum(map(len, TEXTS)) > 100_000


def test_texts_become_as_many_sequences_as_they_hold_up_to_128(gpt2):
    tokenizer = gpt2[1]
    text = load_calibration_text()
    assert Calibration.from_texts(text, tokenizer).n_sequences == 128
    some = " ".join(text)[: 128 * 4 * 60]
    assert 32 <= Calibration.from_texts(some, tokenizer).n_sequences < 128
    with pytest.warns(CalibrationWarning, match=r"fill only \d sequences of 128 tokens.*n_sequences to say"):
        little = Calibration.from_texts(some[: 128 * 4 * 6], tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is asked for by number is meant
        assert Calibration.from_texts(some, tokenizer, n_sequences=little.n_sequences).n_sequences == little.n_sequences
    for wrong in ("many", 0, 2.5):
        with pytest.raises((TypeError, ValueError), match="n_sequences must be"):
            Calibration.from_texts(some, tokenizer, n_sequences=wrong)


def test_a_mixture_of_kinds_of_text(gpt2):
    tokenizer = gpt2[1]
    sources = {"novel": load_calibration_text(), "tale": load_evaluation_text()}
    mixed = mixed_texts(sources, tokenizer, weights={"novel": 3, "tale": 1}, seq_len=32, n_sequences=10)
    assert mixed.provenance["kinds"] == {"novel": 8, "tale": 2}
    assert mixed.n_sequences == 10
    novel = Calibration.from_texts(sources["novel"], tokenizer, seq_len=32, n_sequences=8)
    assert torch.equal(mixed.ids_ST[:8], novel.ids_ST)
    assert mixed_texts(sources, tokenizer, seq_len=32, n_sequences=10).provenance["kinds"] == {"novel": 5, "tale": 5}
    with pytest.raises(ValueError, match="weights must give each of"):
        mixed_texts(sources, tokenizer, weights={"novel": 1})
    with pytest.raises(ValueError, match="source 'tale': calibration texts must fill"):
        mixed_texts({**sources, "tale": "Once."}, tokenizer)
    with pytest.raises(ValueError, match="at least one kind"):
        mixed_texts({}, tokenizer)

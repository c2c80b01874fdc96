"""Calibration data as people hand it over: padding, labels, odd rows, streams, chats."""

from __future__ import annotations

import itertools
import math
from collections import namedtuple

import numpy as np
import pandas
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, IterableDataset, Value
from torch.utils.data import DataLoader, TensorDataset

from layershap import (
    PERPLEXITY_PROTOCOLS,
    Calibration,
    LayerGame,
    perplexity,
)
from layershap.calibration import IGNORE, as_calibration
from layershap.utilities import NegativeLogLikelihood

from .helpers.pages import follow
from .helpers.texts import TEXTS

ROWS = [{"text": text, "number": i} for i, text in enumerate(TEXTS)]
KEPT = np.array([[1, 1, 0, 1, 1]], dtype=bool)


class WithPad:
    """A tokenizer's special tokens, with the pad token given."""

    bos_token_id, eos_token_id, unk_token_id = 1, 2, 0

    def __init__(self, pad_token_id):
        self.pad_token_id = pad_token_id

    def __call__(self, text, **kwargs):
        raise AssertionError("nothing here is text")


def score(model, data, tokenizer=None):
    with LayerGame(model, data, utility=NegativeLogLikelihood(), tokenizer=tokenizer) as game:
        return float(game(KEPT)[0])


# -- padding ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def padded():
    """Two rows, the second of 5 tokens; the third token of the vocabulary fills it up."""
    ids = torch.randint(5, 500, (2, 9), generator=torch.Generator().manual_seed(3))
    ids[1, 5:] = 3
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return ids, mask


def test_tuples_are_refused_where_mappings_are_scored_without_padding(stories, padded):
    ids, mask = padded
    right = score(stories[0], {"input_ids": ids, "attention_mask": mask})
    assert score(stories[0], ids) != pytest.approx(right, abs=1e-3)
    named = ({"input_ids": i, "attention_mask": m} for i, m in DataLoader(TensorDataset(ids, mask), batch_size=1))
    assert score(stories[0], named) == pytest.approx(right, abs=1e-5)
    for tensors in ((ids, mask), (ids, mask, ids), (ids, ids)):
        with pytest.raises(ValueError, match=f"list of {len(tensors)} tensors doesn't say .* 'attention_mask': mask"):
            as_calibration(DataLoader(TensorDataset(*tensors), batch_size=2))
    assert torch.equal(as_calibration(DataLoader(TensorDataset(ids), batch_size=2)).ids_ST, ids)


class Slotted:
    """Tokens with names, of a class without a ``__dict__``."""

    __slots__ = ("attention_mask", "input_ids")

    def __init__(self, input_ids, attention_mask):
        self.input_ids, self.attention_mask = input_ids, attention_mask


def test_a_mask_without_a_name_is_taken_for_no_text_in_any_container(padded):
    ids, mask = padded
    dataset = TensorDataset(ids, mask)
    for data in (
        (ids, mask),
        [ids, mask],
        (ids.numpy(), mask.numpy()),
        [ids.numpy(), mask.numpy()],
        (ids.tolist(), mask.tolist()),
        [ids.tolist(), mask.tolist()],
        [(ids.numpy(), mask.numpy())],
        [[ids.numpy(), mask.numpy()]],
        [(ids.tolist(), mask.tolist())],
        zip(ids, mask, strict=True),
        zip(ids.numpy(), mask.numpy(), strict=True),
        zip(ids.tolist(), mask.tolist(), strict=True),
        [[row.tolist(), flags.tolist()] for row, flags in zip(ids, mask, strict=True)],
        next(iter(DataLoader(dataset, batch_size=2))),
        [ids, ids, mask],
    ):
        with pytest.raises(ValueError, match=r"doesn't say which of them are attention mask and labels\. Name them"):
            as_calibration(data)
    with pytest.raises(TypeError, match="got TensorDataset; wrap it in a DataLoader"):
        as_calibration(dataset)
    fields = namedtuple("fields", ["input_ids", "attention_mask"])
    for named in (fields(ids, mask), Slotted(ids, mask)):
        assert as_calibration([named]).counts_S.tolist() == [8, 4]
    few = torch.tensor([[1, 0, 1]])
    for rows, count in (([ids, ids.flip(1)], 4), ([ids.tolist()], 2), ([[ids[0].numpy(), ids[1].numpy()]], 2)):
        assert as_calibration(rows).n_sequences == count
    assert as_calibration([few, few]).n_sequences == 2  # all of it may be of two tokens


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_pad_token_of_its_own_is_cut_off_without_a_mask(stories, padded, side):
    ids, mask = padded
    if side == "left":
        ids, mask = (torch.stack([row[0], row[1].roll(4)]) for row in (ids, mask))
    right = score(stories[0], {"input_ids": ids, "attention_mask": mask})
    labels = ids.clone()
    for data in (ids, {"input_ids": ids}, [ids[:1], ids[1:]], ids.numpy(), {"input_ids": ids, "labels": labels}):
        assert as_calibration(data, WithPad(3)).counts_S.tolist() == [8, 4]
        assert score(stories[0], data, WithPad(3)) == pytest.approx(right, abs=1e-5)


def test_a_pad_token_that_is_also_eos_is_no_evidence_of_padding():
    ends = torch.tensor([[7, 8, 9, 2], [5, 6, 7, 8]])
    assert as_calibration(ends, WithPad(2)).counts_S.tolist() == [3, 3]
    filled = torch.tensor([[7, 8, 2, 2], [5, 6, 7, 8]])
    with pytest.raises(ValueError, match=r"token 2, the tokenizer's pad token.*Give an attention_mask"):
        as_calibration(filled, WithPad(2))
    with pytest.raises(ValueError, match="padding can't be told from text"):
        as_calibration(filled.flip(1), WithPad(2))
    told = {"input_ids": filled, "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])}
    assert as_calibration(told, WithPad(2)).counts_S.tolist() == [2, 3]
    unscored = {"input_ids": filled, "labels": filled.where(filled != 2, IGNORE)}
    assert as_calibration(unscored, WithPad(2)).counts_S.tolist() == [1, 3]


def test_masks_that_are_no_padding_masks():
    with pytest.raises(ValueError, match="1 for tokens and 0 for padding"):
        as_calibration({"input_ids": [[1, 2, 3]], "attention_mask": [[1, 2, 2]]})
    with pytest.raises(ValueError, match="length of 2, the ids of 3"):
        as_calibration({"input_ids": [[1, 2, 3]], "attention_mask": [[1, 1]]})
    with pytest.raises(ValueError, match="2 rows, got 1"):
        as_calibration({"input_ids": [[1, 2], [3, 4]], "attention_mask": [[1, 1]]})


# -- labels ----------------------------------------------------------------------------------------------------------


def test_labels_other_than_the_ids_are_refused_and_shifted_ones_named():
    ids = torch.randint(5, 500, (2, 9), generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match=r"shifted beforehand.*Give labels=input_ids"):
        as_calibration({"input_ids": ids[:, :-1], "labels": ids[:, 1:]})
    prompt_unscored = ids[:, 1:].clone()
    prompt_unscored[:, :3] = IGNORE
    with pytest.raises(ValueError, match="shifted beforehand"):
        Calibration(ids[:, :-1], prompt_unscored)
    with pytest.raises(ValueError, match="these differ"):
        as_calibration({"input_ids": ids, "labels": ids.flip(1)})
    with pytest.raises(ValueError, match="these differ"):  # outside of any vocabulary
        as_calibration({"input_ids": ids, "labels": ids + 5000})
    anything_at_0 = ids.clone()
    anything_at_0[:, 0] = 0
    assert Calibration(ids, anything_at_0).counts_S.tolist() == [8, 8]


@pytest.mark.parametrize("kind", [torch.float32, torch.complex64, torch.bool])
def test_only_integers_are_token_ids_and_labels(kind):
    ids = torch.tensor([[1, 2, 3, 4]])
    for batch in ({"input_ids": ids.to(kind)}, {"input_ids": ids, "labels": ids.to(kind)}):
        with pytest.raises(ValueError, match="must be integers"):
            as_calibration(batch)
    with pytest.raises(ValueError, match="integer"):
        as_calibration(ids.to(kind))
    with pytest.raises(ValueError, match="labels must be integers"):
        Calibration(ids, ids.to(kind))


def test_a_tokenizer_that_gives_floats_is_refused(gpt2):
    class Floats(WithPad):
        def __call__(self, text, **kwargs):
            return {"input_ids": [float(t) + 0.5 for t in gpt2[1](text)["input_ids"]]}

    with pytest.raises(TypeError, match="token ids must be integers, Floats gave float"):
        as_calibration(TEXTS, Floats(None))


# -- rows ------------------------------------------------------------------------------------------------------------


def test_empty_rows_are_left_out_and_counted():
    rows = [{"input_ids": [5, 6, 7, 8]}, {"input_ids": []}, {"input_ids": [9, 6, 7]}]
    masked = {"input_ids": torch.tensor([[1, 2, 3], [0, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [0, 0, 0]])}
    dataset = Dataset.from_list(rows)
    for data in (rows, dataset, dataset.with_format("torch"), dataset.to_iterable_dataset()):
        found = as_calibration(data)
        assert found.counts_S.tolist() == [3, 2]
        assert found.provenance["empty_rows"] == 1
    assert as_calibration(masked).counts_S.tolist() == [2]
    assert as_calibration([{"input_ids": torch.empty(0, 4).long()}, {"input_ids": [[1, 2]]}]).n_sequences == 1
    with pytest.raises(ValueError, match="empty: all its 2 rows are"):
        as_calibration([{"input_ids": []}, {"input_ids": torch.tensor([[]])}])


def test_rows_of_different_lengths():
    ragged = {"input_ids": [[5, 6, 7, 8], [5, 6, 7]], "labels": [[IGNORE, 6, 7, 8], [IGNORE, IGNORE, 7]]}
    found = as_calibration(ragged)
    assert found.counts_S.tolist() == [3, 1]
    assert found.ids_ST.tolist() == [[5, 6, 7, 8], [5, 6, 7, 0]]
    assert as_calibration([[5, 6, 7], [5, 6]]).counts_S.tolist() == [2, 1]
    assert as_calibration([np.array([5, 6, 7], dtype=np.uint16)]).counts_S.tolist() == [2]
    with pytest.raises(ValueError, match=r"the single number 5; one row of ids is \[ids\]"):
        as_calibration([5, 6, 7])
    with pytest.raises(ValueError, match="in row 0 they have a length of 2, the ids of 3"):
        as_calibration({"input_ids": [[1, 2, 3]], "labels": [[2, 3]]})
    with pytest.raises(ValueError, match="labels must have the shape of input_ids: 2 rows, got 1"):
        as_calibration({"input_ids": [[1, 2, 3], [4, 5, 6]], "labels": [1, 0]})
    with pytest.raises(ValueError, match="one value for each token; got the single number 1"):
        as_calibration(Dataset.from_dict({"input_ids": [[1, 2, 3]], "labels": [1]}))  # the class of a text


# -- texts and streams -----------------------------------------------------------------------------------------------


def test_texts_in_any_iterable_are_the_same_texts(gpt2):
    tokenizer = gpt2[1]
    expected = as_calibration(TEXTS, tokenizer).ids_ST
    stream = Dataset.from_list(ROWS).to_iterable_dataset()
    for data in (
        tuple(TEXTS),
        iter(TEXTS),
        pandas.Series(TEXTS, index=range(5, 17)),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        Dataset.from_list(ROWS),
        Dataset.from_list(ROWS)["text"],
        stream,
        stream["text"],
        stream.map(lambda row: {"text": row["text"]}),  # whose columns aren't known
        IterableDataset.from_generator(lambda: iter(ROWS)),
        ROWS,
        iter(ROWS),
    ):
        assert torch.equal(as_calibration(data, tokenizer).ids_ST, expected)
    tokenised = stream.map(lambda row: {"input_ids": tokenizer(row["text"])["input_ids"][:32]}, remove_columns="text")
    assert as_calibration(tokenised).ids_ST.shape == (12, 32)
    found = as_calibration(iter(ROWS), tokenizer)
    assert (found.provenance["source"], found.provenance["column"]) == ("dataset", "text")
    assert torch.equal(Calibration.from_dataset(iter(ROWS), tokenizer, column="text").ids_ST, expected)


def test_data_are_read_once_and_only_the_columns_that_count(gpt2):
    class Loader:
        """A length and one pass, as a DataLoader has whose workers are slow to start."""

        def __init__(self):
            self.passes = 0

        def __len__(self):
            return 2

        def __iter__(self):
            self.passes += 1
            return iter([{"input_ids": torch.tensor([[1, 2, 3]])}, {"input_ids": torch.tensor([[4, 5, 6]])}])

    loader = Loader()
    assert as_calibration(loader).ids_ST.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert loader.passes == 1

    decoded = []
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3]] * 2, "picture": ["a", "b"], "text": TEXTS[:2]})
    watched = rows.with_transform(lambda batch: decoded.extend(batch.get("picture", [])) or batch)
    assert as_calibration(watched).n_sequences == 2
    assert Calibration.from_dataset(watched, gpt2[1], column="text", n_sequences=2).n_sequences == 2
    assert decoded == []


def test_streams_without_an_end_are_read_as_far_as_needed(gpt2):
    model, tokenizer = gpt2
    seen = itertools.count()

    def endless():
        for i in seen:
            yield {"text": TEXTS[i % len(TEXTS)]}

    stream = IterableDataset.from_generator(endless, features=Features({"text": Value("string")}))
    for make in (
        lambda: as_calibration(stream, tokenizer),
        lambda: Calibration.from_texts((row["text"] for row in endless()), tokenizer, n_sequences=10),
        lambda: PERPLEXITY_PROTOCOLS["seq128"].sequences((row["text"] for row in endless()), tokenizer, n_sequences=10),
    ):
        found = make()
        assert found.ids_ST.shape in ((10, 128), (128, 128))
        assert 2**20 <= found.provenance["stopped_after_characters"] < 2**20 + 1500
    # Spread over what was read, not its beginning.
    assert found.provenance["n_tokens"] > 100 * 1280
    assert math.isfinite(perplexity(model, (row["text"] for row in endless()), tokenizer, n_sequences=2).value)


def test_all_of_what_has_no_end_is_refused(gpt2, monkeypatch):
    monkeypatch.setattr("layershap.calibration.sources.MOST_CHARACTERS", 100_000)
    monkeypatch.setattr("layershap.calibration.reading.MOST_TOKENS", 1000)
    with pytest.raises(ValueError, match=r"no end after 10.,... characters; give n_sequences"):
        Calibration.from_texts(itertools.cycle(TEXTS), gpt2[1], n_sequences=None)
    with pytest.raises(ValueError, match="no end after 1,010 tokens; give a part of it"):
        as_calibration({"input_ids": [list(range(5, 15))]} for _ in itertools.count())
    finite = Calibration.from_texts(iter(TEXTS), gpt2[1], n_sequences=None)
    assert "stopped_after_characters" not in finite.provenance
    assert as_calibration([{"input_ids": [list(range(5, 15))]}] * 200).n_sequences == 200  # a list has an end


def test_what_holds_names_instead_of_texts_is_refused(gpt2, tmp_path):
    tokenizer = gpt2[1]
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    chat = [{"role": "user", "content": "Where is the ship?"}]
    for data, error, message in (
        (DatasetDict(train=Dataset.from_list(ROWS)), ValueError, r"several splits, \['train'\]: choose one"),
        (pandas.DataFrame(ROWS), ValueError, r"Give frame\[name\]; columns: \['text', 'number'\]"),
        (str(path), ValueError, "path of a file, not text"),
        ([str(path)], ValueError, "path of a file, not text"),
        (path, TypeError, "is a path, not text"),
        (b"bytes", TypeError, "got bytes"),
        ([{"title": "a", "body": "b"}], ValueError, r"which column holds the text.*\['title', 'body'\]"),
        (Dataset.from_list([{"messages": chat}]), ValueError, "render them first.*apply_chat_template"),
        ([{"messages": chat}], ValueError, "render them first.*apply_chat_template"),
        ([chat, chat], ValueError, r"chats to layershap\.calibration\.chat_answers.* or rendered to text"),
        (DataLoader(TEXTS, batch_size=4), ValueError, "a list of str"),
        ({"novel": TEXTS}, ValueError, "'input_ids'.*novel"),
    ):
        with pytest.raises(error, match=message):
            as_calibration(data, tokenizer)
    with pytest.raises(ValueError, match=r"holds no strings.*render them first"):
        Calibration.from_dataset(Dataset.from_list([{"messages": chat}]), tokenizer, column="messages")
    for call in (
        lambda: Calibration.from_texts({"novel": TEXTS}, tokenizer),
        lambda: perplexity(gpt2[0], {"novel": TEXTS}, tokenizer),
    ):
        with pytest.raises(TypeError, match=r"got a mapping with the keys \['novel'\]"):
            call()
    with pytest.raises(TypeError, match="seq_len must be an int"):
        Calibration.from_texts(TEXTS, tokenizer, seq_len=128.0)


# -- what it shows --------------------------------------------------------------------------------------------------


def test_calibration_shows_itself_in_a_line_and_in_a_notebook():
    odd = Calibration.from_batches([{"input_ids": [[1, 2, 3]]}])
    odd.provenance["tokenizer"] = "<script>"
    assert repr(odd) == "Calibration(1 x 3 tokens, 2 scored; source batches, bos as given, tokenizer <script>)"
    assert "&lt;script&gt;" in odd._repr_html_()
    assert "<script>" not in odd._repr_html_()


def test_the_page_on_calibration_data_can_be_followed(capsys):
    names = follow("calibration_inputs.md")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("Calibration(32 x 128 tokens, 4,064 scored; source dataset")
    found = as_calibration(names["rows"])
    assert found.n_sequences == 8
    answers = [names["tokenizer"](chat[1]["content"])["input_ids"] for chat in names["chats"]]
    assert (found.counts_S - torch.tensor([len(ids) for ids in answers])).abs().max() <= 1  # a token may span the edge

"""Chats of which only the answers are scored, the model's own answers, and mixtures of what is ready made."""

from __future__ import annotations

import copy
import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict

from layershap import CalibrationWarning, LayerGame, LayerPruner
from layershap.calibration import IGNORE, Calibration, as_calibration, chat_answers, mixed_texts, own_answers
from layershap.calibration.chat_source import MOST_CHATS
from layershap.datasets import load_smollm2
from layershap.forward.unmasked import sequence_statistics

from .helpers.texts import TEXTS

SMOLLM2 = Path(__file__).parents[1] / "benchmarks" / "models" / "smollm2"

PLAIN = (
    "{% for m in messages %}{% if m.role == 'assistant' %}A: {{ m.content + eos_token }}{{ '\\n' }}"
    "{% else %}{{ m.role }}: {{ m.content }}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A: {% endif %}"
)
MARKED = PLAIN.replace("{{ m.content + eos_token }}", "{% generation %}{{ m.content + eos_token }}{% endgeneration %}")
THINKING = (
    "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' and not loop.last %}{{ "
    "m.content.split('#')[-1] }}{% else %}{{ m.content }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}"
    "assistant: {% endif %}"
)


def chat(number, turns=1):
    text = TEXTS[number % len(TEXTS)]
    return [
        message
        for turn in range(turns)
        for message in (
            {"role": "user", "content": f"What came after part {turn + number}? " + text[: 20 + 7 * number]},
            {"role": "assistant", "content": text[100 * turn + 30 : 100 * turn + 90 + 5 * number]},
        )
    ]


CHATS = [chat(number, turns=1 + number % 3) for number in range(6)]


@pytest.fixture
def tokenizer(gpt2):
    found = copy.deepcopy(gpt2[1])
    found.chat_template = PLAIN
    return found


def scored(calibration, row):
    labels = calibration.labels_ST[row]
    return labels[labels != IGNORE].tolist()


# -- which tokens count ----------------------------------------------------------------------------------------------


def test_the_bundled_tokenizer_ends_answers_as_the_templates_of_this_file_do(tokenizer):
    assert tokenizer.eos_token == "<|endoftext|>"


def test_answers_are_what_the_templates_own_marks_say(tokenizer):
    """The same template with `{% generation %}` blocks: transformers' mask, token by token."""
    found = chat_answers(CHATS, tokenizer, n_sequences=None)
    tokenizer.chat_template = MARKED
    marked = chat_answers(CHATS, tokenizer, n_sequences=None)
    assert torch.equal(found.ids_ST, marked.ids_ST)
    assert torch.equal(found.labels_ST, marked.labels_ST)
    assert found.provenance["chat_template"] != marked.provenance["chat_template"]
    for row, each in enumerate(CHATS):
        own = tokenizer.apply_chat_template(each, return_dict=True, return_assistant_tokens_mask=True)
        length = len(own["input_ids"])
        assert found.ids_ST[row, :length].tolist() == own["input_ids"]
        assert (found.labels_ST[row, :length] != IGNORE).int().tolist() == own["assistant_masks"]
        assert not (found.labels_ST[row, length:] != IGNORE).any()


def test_answers_decode_to_what_the_assistant_said(tokenizer):
    found = chat_answers(CHATS, tokenizer, n_sequences=None)
    for row, each in enumerate(CHATS):
        said = "".join(m["content"] + "<|endoftext|>" for m in each if m["role"] == "assistant")
        # The blank before an answer is the first token's, though it is the generation prompt's.
        assert tokenizer.decode(scored(found, row)).replace(" ", "") == said.replace(" ", "")


def test_a_template_whose_renderings_do_not_nest_is_refused(tokenizer):
    tokenizer.chat_template = THINKING
    turns = [
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "hm#There."},
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": "hm#Then."},
    ]
    assert chat_answers([turns[:2]], tokenizer, n_sequences=1).n_sequences == 1
    with pytest.raises(ValueError, match=r"doesn't render the first 2 messages of a chat of 4 .* \{% generation %\}"):
        chat_answers([turns], tokenizer, n_sequences=1)


@pytest.mark.slow
@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="needs scripts/fetch_smollm2.py")
def test_answers_of_a_published_chat_model_by_prefix_difference():
    model, tokenizer = load_smollm2(SMOLLM2)
    found = chat_answers(CHATS, tokenizer, n_sequences=None)
    for row, each in enumerate(CHATS):
        expected = []
        for number, message in enumerate(each):
            if message["role"] != "assistant":
                continue
            before = tokenizer.apply_chat_template(each[:number], return_dict=False, add_generation_prompt=True)
            upto = tokenizer.apply_chat_template(each[: number + 1], return_dict=False)
            assert upto[: len(before)] == before
            assert tokenizer.decode(upto[-2:]) == "<|im_end|>\n"
            expected += upto[len(before) : -1]
        assert scored(found, row) == expected
    prompts = [each[:1] for each in CHATS[:2]]
    own = own_answers(model, prompts, tokenizer, max_new_tokens=12)
    for row, prompt in enumerate(prompts):
        ids = tokenizer.apply_chat_template(prompt, return_tensors="pt", return_dict=False, add_generation_prompt=True)
        new = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert scored(own, row) == new[0, ids.shape[1] :].tolist()


# -- forms ------------------------------------------------------------------------------------------------------------


def test_chats_in_any_form_are_the_same_chats(tokenizer):
    expected = chat_answers(CHATS, tokenizer, n_sequences=None)
    rows = [{"number": index, "messages": each} for index, each in enumerate(CHATS)]
    dataset = Dataset.from_list(rows)
    for data, column in (
        (tuple(CHATS), None),
        (iter(CHATS), None),
        (rows, None),
        (dataset, None),
        (dataset, "messages"),
        (dataset.to_iterable_dataset(), None),
        (dataset.rename_column("messages", "talk"), "talk"),
    ):
        found = chat_answers(data, tokenizer, column=column, n_sequences=None)
        assert torch.equal(found.labels_ST, expected.labels_ST)
        assert torch.equal(found.ids_ST, expected.ids_ST)
    assert found.provenance["column"] == "talk"
    assert found.provenance["n_chats"] == 6


def test_the_side_that_a_tokenizer_pads_on_does_not_matter(gpt2, tokenizer):
    masks = np.array([[1] * 12, [1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1]], dtype=bool)
    sums = []
    for side in ("left", "right"):
        tokenizer.padding_side, tokenizer.pad_token = side, "<|endoftext|>"
        by_chats = chat_answers(CHATS[:3], tokenizer, n_sequences=None)
        tokenizer.chat_template = MARKED
        batch = tokenizer.apply_chat_template(
            CHATS[:3], padding=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
        )
        labels = torch.where(torch.as_tensor(batch["assistant_masks"]) == 1, batch["input_ids"], IGNORE)
        tokenizer.chat_template = PLAIN
        by_batch = as_calibration(
            {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
        )
        assert (batch["attention_mask"][:, 0] == 0).any() == (side == "left")
        for found in (by_chats, by_batch):
            with LayerGame(gpt2[0], found) as game:
                sums.append(game.statistics(masks).sums["nll"])
    for other in sums[1:]:
        np.testing.assert_array_equal(other, sums[0])


def test_log_likelihoods_are_those_of_plain_transformers(gpt2, tokenizer):
    model = gpt2[0]
    found = chat_answers(CHATS, tokenizer, n_sequences=None)
    nll = sequence_statistics(model, found, ("nll",)).sums["nll"][0]
    for row, each in enumerate(CHATS):
        ids = torch.tensor(tokenizer.apply_chat_template(each, return_dict=False))[None]
        labels = found.labels_ST[row, : ids.shape[1]][None]
        with torch.inference_mode():
            loss = model(ids, labels=labels).loss  # the mean over the scored tokens
        assert nll[row] == pytest.approx(float(loss) * int(found.counts_S[row]), rel=1e-4)


# -- how many ----------------------------------------------------------------------------------------------------------


def test_chats_without_a_scored_token_are_left_out_and_made_up_for(tokenizer):
    silent = [{"role": "user", "content": "Anyone?"}]
    late = [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": "Yes."}]
    data = [silent, chat(1), late, chat(2), chat(3), chat(4)]
    found = chat_answers(data, tokenizer, max_length=96, n_sequences=4)
    assert found.n_sequences == 4
    assert found.seq_len <= 96
    assert found.provenance["without_answers"] == 2
    assert "cut" not in found.provenance
    assert chat_answers([chat(5)], tokenizer, max_length=48, n_sequences=1).provenance["cut"] == 1
    with pytest.raises(ValueError, match=r"there must be 5 chats with an assistant's answer .* of the 6 given 4"):
        chat_answers(data, tokenizer, max_length=96, n_sequences=5)
    with pytest.raises(ValueError, match="there must be 1 chats"):
        chat_answers([silent], tokenizer)


def test_chats_are_taken_at_even_distances_and_few_are_warned_of(tokenizer):
    data = [chat(number) for number in range(12)]
    found = chat_answers(data, tokenizer, n_sequences=3)
    assert torch.equal(found.ids_ST, chat_answers([data[0], data[4], data[8]], tokenizer, n_sequences=3).ids_ST)
    with pytest.warns(CalibrationWarning, match="only 12 chats with answers"):
        assert chat_answers(data, tokenizer).n_sequences == 12
    endless = chat_answers(itertools.cycle(data), tokenizer, n_sequences=2)
    assert endless.provenance["stopped_after_chats"] == endless.provenance["n_chats"] == MOST_CHATS


def test_what_is_no_chat_says_what_it_is(gpt2, tokenizer):
    pair = chat(0)
    for data, error, message in (
        (pair, TypeError, r"got one chat alone; give \[chat\]"),
        ("Where?", TypeError, "got str"),
        ({"messages": pair}, TypeError, "got dict"),
        ([], ValueError, "at least one chat"),
        (["Where?"], TypeError, "chat 0 must be a list of messages .* got str"),
        ([[]], ValueError, "chat 0 must have messages"),
        ([[{"from": "human", "value": "Where?"}]], ValueError, "has 'from' and 'value'; rename them"),
        ([[{"content": "Where?"}]], ValueError, r"message 0 of chat 0 must be a mapping with 'role'"),
        ([{"question": "Where?"}], ValueError, r"which column holds the messages\? Columns: \['question'\]"),
        ([{"messages": pair}, {"chat": pair}], ValueError, "row 1 has no 'messages'"),
        (DatasetDict(train=Dataset.from_list([{"messages": pair}])), ValueError, "several splits"),
    ):
        with pytest.raises(error, match=message):
            chat_answers(data, tokenizer, n_sequences=None)
    with pytest.raises(ValueError, match="chats need the model's tokenizer"):
        chat_answers([pair], None)
    with pytest.raises(ValueError, match=r"tokenizer with a chat template; .* has none"):
        chat_answers([pair], gpt2[1])
    with pytest.raises(ValueError, match="is of rows"):
        chat_answers([pair], tokenizer, column="messages")
    with pytest.raises(TypeError, match="max_length must be an int"):
        chat_answers([pair], tokenizer, max_length=2.5)


# -- the model's own answers -------------------------------------------------------------------------------------------


def test_own_answers_are_the_models_greedy_ones(gpt2, stories):
    for model, tokenizer in (gpt2, stories):
        prompts = [text[:n] for text, n in zip(TEXTS, (12, 60, 33), strict=False)]
        found = own_answers(model, prompts, tokenizer, max_new_tokens=10)
        for row, prompt in enumerate(prompts):
            ids = tokenizer(prompt)["input_ids"]
            answer = []
            while len(answer) < 10 and tokenizer.eos_token_id not in answer:
                with torch.inference_mode():
                    answer.append(int(model(torch.tensor([ids + answer])).logits[0, -1].argmax()))
            assert found.ids_ST[row, : len(ids) + len(answer)].tolist() == ids + answer
            assert scored(found, row) == answer
    assert found.provenance["source"] == "greedy answers of the LlamaForCausalLM itself"
    assert found.provenance["n_prompts"] == 3


def test_prompts_in_any_form_are_the_same_prompts(gpt2, tokenizer):
    model = gpt2[0]
    tokenizer.pad_token = "<|endoftext|>"
    texts = [text[:n] for text, n in zip(TEXTS, (12, 60, 33), strict=False)]
    expected = own_answers(model, texts, tokenizer, max_new_tokens=6)
    batches = []
    for side in ("left", "right"):
        tokenizer.padding_side = side
        batches.append(tokenizer(texts, padding=True, return_tensors="pt"))
    for prompts in (
        iter(texts),
        [{"prompt": text} for text in texts],
        Dataset.from_dict({"text": texts}),
        *batches,
        *(dict(batch) for batch in batches),
        [{"input_ids": tokenizer(text)["input_ids"]} for text in texts],
    ):
        found = own_answers(model, prompts, tokenizer, max_new_tokens=6)
        assert torch.equal(found.ids_ST, expected.ids_ST)
        assert torch.equal(found.labels_ST, expected.labels_ST)
    by_ids = own_answers(model, expected.ids_ST[:1, :4], max_new_tokens=3)
    assert by_ids.counts_S.tolist() == [3]
    assert "tokenizer" not in by_ids.provenance


def test_a_chat_is_a_prompt_without_the_answer_that_it_ends_with(gpt2, tokenizer):
    asked = [each[:-1] for each in CHATS[:3]]
    found = [
        own_answers(gpt2[0], prompts, tokenizer, max_new_tokens=5)
        for prompts in (CHATS[:3], asked, [{"messages": each} for each in CHATS[:3]])
    ]
    for other in found[1:]:
        assert other.digest == found[0].digest
    start = tokenizer.apply_chat_template(asked[0], add_generation_prompt=True, return_dict=False)
    assert found[0].ids_ST[0, : len(start)].tolist() == start
    assert found[0].labels_ST[0, : len(start)].tolist() == [IGNORE] * len(start)


def test_bad_prompts(gpt2, tokenizer):
    model = gpt2[0]
    for prompts, error, message in (
        ([], ValueError, "at least one prompt"),
        ([""], ValueError, "prompt 0 must have at least one token"),
        (5, TypeError, "prompts must be texts, chats, rows or token ids, got int"),
        ({"prompt": "Where?"}, TypeError, r"got one mapping with \['prompt'\]; give \[row\]"),
        (CHATS[0], TypeError, r"one chat alone; give \[chat\]"),
        ([{"question": "Where?"}], ValueError, "must have 'prompt', 'text' or 'messages'"),
        ([{"prompt": "Where?", "answer": 7}], ValueError, "the answer of prompt 0 must be a text"),
        ([[{"role": "assistant", "content": "Here."}]], ValueError, "it has only answers"),
        ([TEXTS[0]], ValueError, r"fit the model's 256 positions, .* shorten the prompts"),
        (torch.tensor([[1, 9000]]), ValueError, "Was another tokenizer used"),
        ({"input_ids": [[1, 2], [3, 4]], "attention_mask": [[0, 0], [1, 1]]}, ValueError, r"those at \[0\] have none"),
    ):
        with pytest.raises(error, match=message):
            own_answers(model, prompts, tokenizer)
    with pytest.raises(ValueError, match="prompts need the model's tokenizer"):
        own_answers(model, ["Where?"])
    with pytest.raises(ValueError, match="has none"):
        own_answers(model, CHATS[:1], gpt2[1])


def test_own_answers_run_on_the_fused_path_and_the_report_says_whose_they_are(gpt2, tokenizer):
    own = own_answers(gpt2[0], CHATS, tokenizer, max_new_tokens=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few masks
        report = LayerPruner(n_masks=30, max_remove=2, random_state=0).fit(gpt2[0], own).report_
    assert report.cost.path == "fused"
    assert "greedy answers of the GPT2LMHeadModel itself" in str(report)
    assert report.calibration.provenance["n_prompts"] == 6


# -- mixtures ----------------------------------------------------------------------------------------------------------


def test_a_mixture_of_texts_chats_and_own_answers(gpt2, tokenizer):
    chats = chat_answers(CHATS, tokenizer, n_sequences=None)
    own = own_answers(gpt2[0], [text[:20] for text in TEXTS[:4]], tokenizer, max_new_tokens=8)
    found = mixed_texts(
        {"novel": TEXTS, "chats": chats, "own": own},
        tokenizer,
        weights={"novel": 2, "chats": 1.5, "own": 0.5},
        seq_len=32,
        n_sequences=8,
    )
    assert found.provenance["kinds"] == {"novel": 4, "chats": 3, "own": 1}
    taken = chats.take(torch.tensor([0, 2, 4]))
    assert found.counts_S.tolist() == [31] * 4 + taken.counts_S.tolist() + [8]
    assert found.provenance["scored_tokens"] == {"novel": 124, "chats": int(taken.counts_S.sum()), "own": 8}
    assert found.provenance["parts"]["chats"]["source"] == "chats"
    assert torch.equal(found.ids_ST[4:7, : chats.seq_len], taken.ids_ST)
    assert mixed_texts({"a": chats, "b": own}, None, n_sequences=4).n_sequences == 4
    with pytest.raises(ValueError, match="source 'own': it has 4 sequences, its share is 6"):
        mixed_texts({"chats": chats, "own": own}, None, n_sequences=12)
    assert isinstance(found, Calibration)

"""Prompts: what is warned of where a model answers them itself, and what is kept of them for people."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest

from layershap import CalibrationWarning, GenerationCheck, PromptWarning
from layershap.calibration import mixed_texts, own_answers
from layershap.calibration.enough import LITTLE
from layershap.calibration.prompts import read_prompts
from layershap.datasets import load_smollm2

from .helpers.texts import TEXTS

SMOLLM2 = Path(__file__).parents[1] / "benchmarks" / "models" / "smollm2"

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where did the ship go?"},
    {"role": "assistant", "content": "To sea."},
]


@pytest.fixture
def tokenizer(gpt2):
    found = copy.deepcopy(gpt2[1])
    found.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return found


def test_prompts_keep_what_people_would_call_them(tokenizer):
    parts = [{"type": "image"}, {"type": "text", "text": "What is"}, {"type": "text", "text": "this?"}]
    asked = ["Once", {"text": "Twice"}, CHAT, [{"role": "user", "content": parts}], {"input_ids": [5, 6]}]
    found = read_prompts(asked, tokenizer)
    assert [prompt.words for prompt in found] == ["Once", "Twice", "Where did the ship go?", "What is this?", ""]
    assert [prompt.kind for prompt in found] == ["text", "text", "chat", "chat", "tokens"]


def ends_after(model, n_tokens):
    """A copy of a model that ends its answer at once where the prompt has at most so many tokens."""
    ending = copy.deepcopy(model)

    def end(_, args, kwargs, output):
        ids = args[0] if args else kwargs["input_ids"]
        if kwargs["position_ids"].min() == 0 and ids.shape[1] <= n_tokens:
            output.logits[:, -1, ending.config.eos_token_id] = 1e6
        return output

    ending.register_forward_hook(end, with_kwargs=True)
    return ending


def issued(call, category):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [warning for warning in caught if issubclass(warning.category, category)]


def test_few_prompts_are_warned_of_unless_their_number_is_chosen(gpt2, tokenizer):
    """The rule of texts and chats."""
    model, prompts = gpt2[0], [TEXTS[0][place : place + 9] for place in range(LITTLE)]
    own = {}

    def answer(count, n_sequences):
        own[n_sequences] = own_answers(model, prompts[:count], tokenizer, max_new_tokens=1, n_sequences=n_sequences)

    assert not issued(lambda: answer(LITTLE, "auto"), CalibrationWarning)
    assert not issued(lambda: answer(LITTLE, 3), CalibrationWarning)
    (found,) = issued(lambda: answer(LITTLE - 1, "auto"), CalibrationWarning)
    assert str(found.message).startswith(f"there are only {LITTLE - 1} prompts; ")
    assert str(found.message).endswith("Give more prompts, or n_sequences to say that this is meant.")
    assert found.filename == __file__
    even = [prompts[index * LITTLE // 3] for index in range(3)]
    assert own[3].digest == own_answers(model, even, tokenizer, max_new_tokens=1, n_sequences=3).digest
    with pytest.raises(ValueError, match="n_sequences must be at most 2, the number of prompts, got 3"):
        own_answers(model, prompts[:2], tokenizer, n_sequences=3)
    with pytest.raises(TypeError, match="n_sequences must be an int of at least 1, or 'auto'"):
        own_answers(model, prompts[:2], tokenizer, n_sequences=None)
    mixture = {"novel": TEXTS, "own": own[3]}
    assert not issued(lambda: mixed_texts(mixture, tokenizer, seq_len=32, n_sequences=4), CalibrationWarning)


def test_a_chat_model_that_says_nothing_to_plain_texts_is_warned_of(gpt2, tokenizer):
    model, plain = gpt2
    texts = [text[:n] for text, n in zip(TEXTS, (8, 80, 80, 80, 80), strict=False)]
    ids = [len(tokenizer(text)["input_ids"]) for text in texts]
    silent = ends_after(model, ids[0])
    assert len(texts) == 5
    assert ids[0] < min(ids[1:])
    for ask in (own_answers, GenerationCheck.from_model):

        def asked(prompts, by, model=silent, ask=ask):
            return issued(lambda: ask(model, prompts, by, max_new_tokens=3), PromptWarning)

        (found,) = asked(texts[:4], tokenizer)  # a quarter of them
        assert str(found.message).startswith("1 of the 4 answers to plain texts are empty")
        assert "Give [{'role': 'user', 'content': text}] in place of each text" in str(found.message)
        assert '{"messages": [{"role": "user", "content": "..."}]}' in str(found.message)
        assert found.filename == __file__
        (found,) = asked([{"prompt": texts[0]}, {"text": texts[0]}, CHAT], tokenizer)
        assert "2 of the 2" in str(found.message)
        assert not asked(texts, tokenizer)  # less than a quarter
        assert not asked(texts, tokenizer, model)  # a chat model that goes on from texts
        assert not asked(texts[:2], plain)  # no chat template
        assert not asked({"input_ids": [tokenizer(texts[0])["input_ids"]]}, tokenizer)
    assert not issued(lambda: own_answers(ends_after(model, 999), [CHAT] * 3, tokenizer), PromptWarning)


@pytest.mark.slow
@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="needs scripts/fetch_smollm2.py")
def test_smollm2_is_to_be_asked_by_chats():
    model, tokenizer = load_smollm2(SMOLLM2)
    questions = ["What is the capital of France?", "Name three colours.", "Who wrote Hamlet?", "What is 7 times 8?"]
    found = []
    with pytest.warns(PromptWarning, match=r"\d of the 4 answers to plain texts are empty"):
        found.append(own_answers(model, questions, tokenizer, max_new_tokens=8, n_sequences=4))
    chats = [[{"role": "user", "content": question}] for question in questions]
    with warnings.catch_warnings():
        warnings.simplefilter("error", PromptWarning)
        found.append(own_answers(model, chats, tokenizer, max_new_tokens=8, n_sequences=4))
    assert int((found[0].counts_S == 1).sum()) >= 2
    assert int(found[1].counts_S.min()) > 1

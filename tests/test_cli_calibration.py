"""Chats and prompts as calibration data of the command line, on stories260K with a chat template."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from layershap import LayerPruner, PruningReport
from layershap.calibration import chat_answers, own_answers
from layershap.cli import main
from layershap.cli.files import read_chats

from .helpers.models import STORIES, load_stories
from .helpers.texts import STORY

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
pytestmark = [
    pytest.mark.filterwarnings("ignore::layershap.exceptions.SurrogateQualityWarning"),
    pytest.mark.filterwarnings("ignore::layershap.exceptions.ValueQualityWarning"),
]
MASKS = ("--n-masks", "20", "--max-remove", "2")


def chat(number):
    return [
        {"role": "user", "content": f"Tell me story {number}."},
        {"role": "assistant", "content": STORY[10 * number : 10 * number + 120]},
    ]


CHATS = [chat(number) for number in range(6)]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """The model, with a tokenizer that knows how chats are written."""
    folder = tmp_path_factory.mktemp("chat-model")
    load_stories().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def fitted(folder, out, *options):
    assert main(["fit", str(folder), "--out", str(out), *MASKS, *map(str, options)]) == 0
    return PruningReport.load(out / "report.json")


def check_is_the_librarys(report, calibration):
    """The same data and the same values as from Python."""
    pruner = LayerPruner(n_masks=20, max_remove=2, random_state=0).fit(load_stories(), calibration)
    assert report.calibration.digest == calibration.digest
    assert report.calibration.provenance.items() >= calibration.provenance.items()
    assert [layer.contribution for layer in report.layers] == pruner.contributions_.tolist()


def test_a_fit_on_the_answers_of_chats(model_folder, tmp_path):
    rows = [{"messages": each, "id": number} for number, each in enumerate(CHATS[:4])]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps(CHATS[4:]), encoding="utf-8")
    files = (tmp_path / "a.jsonl", tmp_path / "b.json")
    assert read_chats(files) == CHATS
    report = fitted(model_folder, tmp_path / "run", "--chats", *files, "--seq-len", 64, "--n-sequences", 5)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    expected = chat_answers(CHATS, tokenizer, max_length=64, n_sequences=5)
    assert report.calibration.provenance["scored"] == "answers"
    check_is_the_librarys(report, expected)


def test_a_fit_on_the_models_own_answers(model_folder, tmp_path):
    prompts = [STORY[:30], STORY[5:40], STORY[60:95]]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    report = fitted(model_folder, tmp_path / "run", "--own-answers", tmp_path / "prompts.txt", "--answer-tokens", 12)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    check_is_the_librarys(report, own_answers(load_stories(), prompts, tokenizer, max_new_tokens=12))


def test_other_methods_on_the_answers_of_chats(model_folder, tmp_path, capsys):
    (tmp_path / "chats.json").write_text(json.dumps(CHATS), encoding="utf-8")
    (tmp_path / "held-out.txt").write_text(STORY * 4, encoding="utf-8")
    options = ["--chats", tmp_path / "chats.json", "--n-sequences", 6, "--eval-text", tmp_path / "held-out.txt"]
    options += ["--n-remove", 1, "--methods", "shortened-llama-ppl", "last", "--format", "json"]
    assert main(["baselines", str(model_folder), *map(str, options)]) == 0
    records = json.loads(capsys.readouterr().out)["records"]
    assert {record["method"] for record in records} >= {"shortened-llama-ppl", "last"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "user: hello", "a.txt must be .jsonl or .json with a chat a row"),
        ("a.jsonl", "\n", "a.jsonl must hold chats, it is blank"),
        ("a.jsonl", '{"text": "x"}', "a.jsonl, line 1 must be a list of messages, or an object with 'messages'"),
        ("a.jsonl", json.dumps(CHATS[0]) + "\n[]", "a.jsonl, line 2 must have messages, it is empty"),
        ("a.json", '[{"messages": "hello"}]', "a.json, row 1 must be a list of messages with 'role' and 'content'"),
        ("a.json", '[[{"from": "human", "value": "x"}]]', "a.json, row 1 has 'from' and 'value'; rename them"),
        (
            "a.json",
            json.dumps({"messages": CHATS[0]}),
            "a.json must hold a list with a text, prompt or chat an item, it",
        ),
        ("a.json", json.dumps([[CHATS[0][0]]]), "there must be 1 chats with an assistant's answer"),
    ],
)
def test_what_is_no_chat_is_refused_by_file_and_row(name, content, message, model_folder, tmp_path, capsys):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert main(["fit", str(model_folder), "--chats", str(tmp_path / name), "--out", str(tmp_path / "run")]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_tokenizer_without_a_chat_template_is_named(tmp_path, capsys):
    (tmp_path / "chats.json").write_text(json.dumps(CHATS), encoding="utf-8")
    arguments = ["--chats", str(tmp_path / "chats.json"), "--out", str(tmp_path / "run")]
    assert main(["fit", str(STORIES), *arguments]) == 1
    assert "chats need a tokenizer with a chat template" in capsys.readouterr().err

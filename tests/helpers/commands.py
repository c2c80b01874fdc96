"""Commands in short: those of `layershap`, and the examples."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM

from layershap.cli import main

from .models import STORIES

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
EXAMPLES = Path(__file__).parents[2] / "examples"


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fit_again(run, text, *options):
    fit = ["--text", text, "--out", run, "--seq-len", 48, "--n-sequences", 4, "--n-masks", 20]
    return main([str(argument) for argument in ["fit", STORIES, *fit, *options]])


def prune(out, *options):
    return main([str(argument) for argument in ["prune", STORIES, "--out", out, *options]])


def refusal(capsys):
    """The last line that the command wrote to stderr."""
    return capsys.readouterr().err.splitlines()[-1]


def copy_of_the_model(folder):
    AutoModelForCausalLM.from_pretrained(STORIES).save_pretrained(folder)
    for name in TOKENIZER:
        (folder / name).write_bytes((STORIES / name).read_bytes())
    return folder


def measure(run, model, pruned, *options):
    return main([str(a) for a in ["report", run / "report.json", "--model", model, "--pruned", pruned, *options]])


def run_example(name: str, *arguments: object) -> str:
    found = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout

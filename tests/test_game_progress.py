"""One bar for a whole fit, however many calls it makes."""

from __future__ import annotations

import logging
import re
import subprocess
import sys

import numpy as np
import pytest

from layershap import Calibration, LayerGame, LayerPruner
from layershap.datasets import load_calibration_text


def test_one_bar_for_a_fit_with_a_search(stories, stories_calibration, capsys):
    LayerPruner(random_state=0, verbose=1).fit(stories[0], stories_calibration)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    last = captured.err.rstrip("\n").split("\r")[-1]
    assert re.match(r"\d+ masks: 100%", last)


def test_the_bar_says_that_a_surrogate_is_fitted(stories, stories_calibration, capsys):
    LayerPruner(random_state=0, verbose=1).fit(stories[0], stories_calibration)
    assert re.search(r"fitting the surrogate \(HammingProcess\) to \d+ masks", capsys.readouterr().err)


def test_one_bar_for_text_in_parts(gpt2, capsys):
    calibration = Calibration.from_texts(load_calibration_text(), gpt2[1], seq_len=16, n_sequences=32)
    LayerPruner(max_remove=2, verbose=1, random_state=0).fit(gpt2[0], calibration)
    lines = capsys.readouterr().err.split("\n")
    assert len(lines) == 2
    assert lines.pop() == ""
    assert re.match(r"\d+ masks: 100%", lines[0].split("\r")[-1])


def test_the_bar_ends_whole_where_fewer_masks_came_than_expected(stories, stories_calibration, capsys):
    with LayerGame(stories[0], stories_calibration, verbose=1) as game:
        game.progress.expect(10)
        game(~np.eye(5, dtype=bool)[:2])
        # Two, and the whole model that the ratio is taken to.
        assert game.progress.total == pytest.approx(10 / 3 * game.progress.work_planned)
        assert "100%" not in capsys.readouterr().err
    assert re.match(r"3 masks: 100%", capsys.readouterr().err.rstrip("\n").split("\r")[-1])


def test_a_bar_that_nobody_closed_ends_with_the_process():
    """Drawing it later, while the interpreter is taken down, crashes Python 3.13."""
    code = """
import atexit, sys
atexit.register(lambda: sys.stderr.write("the end"))  # what is registered first is called last
import torch
from layershap import LayerGame
from layershap.datasets import tiny_random
ids = torch.randint(1, 60, (2, 8))
game = LayerGame(tiny_random("gpt2", n_layers=2), ids, verbose=1)
game([[True, False]])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    bar, last = found.stderr.split("\n")[-2:]
    assert re.match(r"2 of 2 masks: 100%", bar.split("\r")[-1])
    assert last == "the end"


def test_logged_not_printed(stories, stories_calibration, capsys, caplog):
    with caplog.at_level(logging.INFO, logger="layershap"):
        pruner = LayerPruner(random_state=0).fit(stories[0], stories_calibration)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    (record,) = [record for record in caplog.records if record.name.startswith("layershap")]
    assert f"{pruner.diagnostics_['n_evaluated']} masks evaluated" in record.getMessage()

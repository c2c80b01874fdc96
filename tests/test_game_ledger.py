"""The game and its ledger: nothing evaluated twice, nothing lost, the same bits after an interruption."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from layershap import (
    LayerGame,
    LayerPruner,
    LedgerFormatError,
    LedgerInUseError,
    LedgerMismatchError,
    ShapleyRanking,
    remove_layers,
    shapley,
    skip_layers,
    utilities,
)
from layershap.forward.engine import Engine

from .helpers.models import STORIES, tiny_gpt2


def test_all_coalitions_of_a_published_checkpoint(stories, stories_calibration):
    game = LayerGame(stories[0], stories_calibration)
    values = shapley.exact(game)
    none, everything = game(np.array([[False] * 5, [True] * 5]))
    assert game.n_evaluated == 32
    assert values.sum() == pytest.approx(everything - none, abs=1e-12)
    assert everything == 1.0
    assert values[0] == values.max()
    # One more check that is not the game's own bookkeeping: permutation sampling over the same game.
    sampled = shapley.permutation(game, 2000, rng=np.random.default_rng(0))
    assert (np.abs(sampled.values - values) < 4 * sampled.standard_errors).all()
    assert game.n_evaluated == 32


def test_duplicates_run_once_and_come_back_in_order(stories, stories_calibration):
    game = LayerGame(stories[0], stories_calibration)
    a, b = [True, True, False, True, True], [True, False, True, True, True]
    scores = game(np.array([a, b, a, a]))
    assert game.n_evaluated == 3  # two masks and the dense model, which the score refers to
    assert scores[0] == scores[2] == scores[3] != scores[1]
    assert game(np.array(b)) == scores[1]
    assert game.n_evaluated == 3


def test_scores_are_the_definitions(stories, stories_calibration):
    model, _ = stories
    mask = np.array([[True, True, False, True, True]])
    ids = stories_calibration.ids_ST

    def mean_nll(module):
        with torch.inference_mode():
            logits = module(ids).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item()

    dense, removed = mean_nll(model), mean_nll(remove_layers(model, [2]))
    scores = {
        utility: LayerGame(model, stories_calibration, utility=utility)(mask)[0]
        for utility in (utilities.PerplexityRatio(), utilities.NegativeLogLikelihood())
    }
    assert scores[utilities.PerplexityRatio()] == pytest.approx(np.exp(dense - removed), rel=1e-5)
    assert scores[utilities.NegativeLogLikelihood()] == pytest.approx(-removed, rel=1e-5)
    kl = LayerGame(model, stories_calibration, utility=utilities.KLDivergence())
    assert kl(np.array([[True] * 5, mask[0]])) == pytest.approx([0, kl(mask)[0]], abs=1e-6)
    assert kl(mask)[0] < -1e-3
    called = LayerGame(model, stories_calibration, utility=lambda m: -mean_nll(m))
    assert called(mask)[0] == pytest.approx(-removed, rel=1e-5)
    assert called.path == "callable"


def test_a_callable_utility_sees_the_layers_skipped_and_uses_the_ledger(stories, stories_calibration, tmp_path):
    def utility(model):
        with torch.no_grad():
            return float(model(stories_calibration.ids_ST[:1]).logits.sum())

    mask = np.array([[True, False, True, True, True]])
    evaluated = []
    for _ in range(2):
        with LayerGame(stories[0], stories_calibration, utility=utility, ledger=tmp_path / "l.jsonl") as game:
            score = game(mask)[0]
        evaluated.append(game.n_evaluated)
    assert evaluated == [1, 0]
    with skip_layers(stories[0], [1]):
        assert score == pytest.approx(utility(stories[0]))


@pytest.mark.parametrize("change", ["weights", "calibration", "statistics"])
def test_another_fingerprint_is_an_error_that_names_the_field(stories, stories_calibration, tmp_path, change):
    from copy import deepcopy

    path = tmp_path / "ledger.jsonl"
    model, calibration, utility = stories[0], stories_calibration, None
    LayerGame(model, calibration, ledger=path).close()
    if change == "weights":
        model = deepcopy(model)
        with torch.no_grad():
            model.model.layers[3].mlp.up_proj.weight[0, 0] += 1e-3
    elif change == "calibration":
        calibration = type(calibration)(calibration.ids_ST[:-1], calibration.labels_ST[:-1])
    else:
        utility = utilities.KLDivergence()
    with pytest.raises(LedgerMismatchError, match=change) as caught:
        LayerGame(model, calibration, utility=utility, ledger=path)
    # What a search looks at is other data to the ledger: the user changed a parameter, and must be told which.
    assert ("between a search on text in parts" in str(caught.value)) == (change == "calibration")
    assert "another ledger path" in str(caught.value)


def test_not_a_ledger_and_a_ledger_in_use(stories, stories_calibration, tmp_path):
    (tmp_path / "notes.txt").write_text("hello\n")
    with pytest.raises(LedgerFormatError, match="not a ledger"):
        LayerGame(stories[0], stories_calibration, ledger=tmp_path / "notes.txt")
    with (
        LayerGame(stories[0], stories_calibration, ledger=tmp_path / "l.jsonl"),
        pytest.raises(LedgerInUseError, match=f"in use by process {os.getpid()} on {socket.gethostname()}"),
    ):
        LayerGame(stories[0], stories_calibration, ledger=tmp_path / "l.jsonl")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("l.")] == ["l.jsonl"]
    LayerGame(stories[0], stories_calibration, ledger=tmp_path / "l.jsonl").close()  # given up with the game


SCRIPT = """
import sys, time, torch
import numpy as np
torch.set_num_threads(1)
from layershap import LayerPruner
from layershap.forward import engine
from transformers import AutoModelForCausalLM
engine.SWEEP_MASKS = 4
run = engine.Engine.run
def slow(self, masks, progress):
    time.sleep(0.15)  # long enough to be killed between two sweeps
    return run(self, masks, progress)
if sys.argv[3] == "slow":
    engine.Engine.run = slow
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = torch.randint(1, 500, (6, 40), generator=torch.Generator().manual_seed(0))
pruner = LayerPruner(n_masks=15, ledger=sys.argv[2] or None, random_state=0).fit(model, ids)
np.savez(sys.argv[4], c=pruner.contributions_, s=pruner.scores_, m=pruner.masks_,
         n=pruner.diagnostics_["n_evaluated"])
"""


def run_fit(ledger, mode, out, **kwargs):
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(STORIES), str(ledger), mode, str(out)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], **kwargs)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_fit_resumes_to_the_same_bits(tmp_path, stop):
    ledger = tmp_path / "ledger.jsonl"
    assert run_fit("", "fast", tmp_path / "whole.npz").wait() == 0
    process = run_fit(ledger, "slow", tmp_path / "never.npz", stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while process.poll() is None and time.time() < deadline:
        if ledger.exists() and len(ledger.read_bytes().splitlines()) >= 4:
            os.kill(process.pid, stop)
            break
        time.sleep(0.01)
    process.wait()
    assert not (tmp_path / "never.npz").exists(), "the run ended before it could be interrupted"
    done = len(ledger.read_bytes().split(b"\n")[1:-1])  # whole lines
    assert run_fit(ledger, "fast", tmp_path / "resumed.npz").wait() == 0
    whole, resumed = np.load(tmp_path / "whole.npz"), np.load(tmp_path / "resumed.npz")
    for key in "csm":
        assert np.array_equal(whole[key], resumed[key])
    assert 0 < done < whole["n"]
    assert resumed["n"] == whole["n"] - done


def test_another_surrogate_from_the_ledger_costs_no_forward(stories, stories_calibration, tmp_path, monkeypatch):
    from sklearn.linear_model import LinearRegression

    # Without a search, which asks for what the surrogate proposes.
    settings = {"n_masks": 16, "ledger": tmp_path / "l.jsonl", "random_state": 0, "selector": ShapleyRanking()}
    first = LayerPruner(**settings).fit(stories[0], stories_calibration)
    monkeypatch.setattr(Engine, "run", lambda *args: pytest.fail("a forward was run"))
    second = LayerPruner(surrogate=LinearRegression(), **settings).fit(stories[0], stories_calibration)
    assert second.diagnostics_["n_evaluated"] == 0
    assert np.array_equal(first.scores_, second.scores_)


def test_bad_masks_and_utilities(stories, stories_calibration):
    game = LayerGame(stories[0], stories_calibration)
    with pytest.raises(ValueError, match=r"\[M, 5\]"):
        game(np.ones((2, 4), dtype=bool))
    with pytest.raises(ValueError, match="boolean"):
        game(np.full((1, 5), 0.5))
    with pytest.raises(TypeError, match="utility"):
        LayerGame(stories[0], stories_calibration, utility="perplexity")
    with pytest.raises(ValueError, match="batch_tokens"):
        LayerGame(stories[0], stories_calibration, batch_tokens=0)


def test_a_ledger_cut_anywhere_resumes_to_the_same_bits(tmp_path):
    """On a model so wide that the last bits of a matrix product depend on its shape on many processors."""
    model = tiny_gpt2(n_layer=5, n_embd=512, n_head=8)
    ids_ST = torch.randint(128, (3, 17))
    masks_ML = np.array([[int(bit) for bit in f"{number:05b}"] for number in range(32)], dtype=bool)
    path = tmp_path / "l.jsonl"

    def scored():
        with LayerGame(model, ids_ST, ledger=path) as game:
            game(masks_ML[::4])
            return game(masks_ML).tobytes(), game.n_evaluated

    whole, n_masks = scored()
    lines = path.read_bytes().splitlines(keepends=True)
    for n_rows in (1, 2, 4, 7, 10, 15, 20, 26, 31):
        path.write_bytes(b"".join(lines[: 1 + n_rows]))
        assert scored() == (whole, n_masks - n_rows)
        assert len(path.read_bytes().splitlines()) == len(lines)

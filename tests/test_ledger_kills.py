"""Fits killed at random moments: no finished sweep is run again, and the bits are those of a whole run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

SCRIPT = """
# Runs each fit in a fork of this process, so that torch is imported once, and kills some of them.
import os, random, signal, sys, time
import numpy as np
import torch
torch.set_num_threads(1)
from layershap import LayerPruner
from layershap.forward import engine
from layershap.ledger import Ledger
from layershap.samplers import StratifiedSampler
from tests.helpers.samplers import SpreadSampler
from transformers import LlamaConfig, LlamaForCausalLM

engine.SWEEP_MASKS = 4
run, append = engine.Engine.run, Ledger.append
torch.manual_seed(0)
sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=8, **sizes)).eval()
ids = torch.randint(1, 64, (4, 24))


def fit(folder, name, sampler, ledger, pause):
    diary = open(f"{folder}/{name}.txt", "a", buffering=1)

    def note(word, masks):
        diary.write("".join(f"{word} {''.join(map(str, mask.astype(int)))}\\n" for mask in masks))

    def noted_run(self, masks, progress):
        note("run", masks)
        time.sleep(pause)
        return run(self, masks, progress)

    def noted_append(self, rows):
        rows = list(rows)
        append(self, rows)
        note("kept", [mask for mask, _ in rows])

    engine.Engine.run, Ledger.append = noted_run, noted_append
    pruner = LayerPruner(n_masks=60, sampler=sampler(), confidence=1, ledger=ledger, random_state=0).fit(model, ids)
    found = {"c": pruner.contributions_, "s": pruner.scores_, "m": pruner.masks_}
    np.savez(f"{folder}/{name}.npz", n=pruner.diagnostics_["n_evaluated"], **found)


def started(*arguments):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            fit(*arguments)
            status = 0
        finally:
            os._exit(status)
    return child


folder, sampler, kills = sys.argv[1], {"adaptive": SpreadSampler, "plain": StratifiedSampler}[sys.argv[2]], 0
if os.waitpid(started(folder, "whole", sampler, None, 0), 0)[1] != 0:
    sys.exit("the fit failed")
diary, ledger = f"{folder}/killed.txt", f"{folder}/ledger.jsonl"
open(diary, "a").close()
for _ in range(4):
    # A sweep's masks are noted twice, as run and as kept, in some 110 characters.
    size = os.path.getsize(diary) + random.randint(1, 250)
    child = started(folder, "killed", sampler, ledger, 0.03)
    alive = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while os.path.getsize(diary) < size and os.waitid(os.P_PID, child, alive) is None:
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    kills += os.waitpid(child, 0)[1] == signal.SIGKILL
    open(diary, "a").write("killed\\n")
sys.exit(os.waitpid(started(folder, "killed", sampler, ledger, 0), 0)[1] != 0 or kills < 3)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the fits run in forks")
@pytest.mark.parametrize("sampler", ["adaptive", "plain"])
def test_kills_cost_the_sweep_at_hand_only(tmp_path, sampler):
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path), sampler]
    assert subprocess.run(command, cwd=Path(__file__).parents[1], timeout=600).returncode == 0
    asked = [line.split()[1] for line in (tmp_path / "whole.txt").read_text().splitlines()]
    kept: list[str] = []
    ran: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    at_hand: list[str] = []  # of the sweep that is running
    for line in (tmp_path / "killed.txt").read_text().splitlines():
        word, _, mask = line.partition(" ")
        if word == "run":
            assert mask not in kept, "a finished sweep was run again"
            ran[mask] += 1
            at_hand.append(mask)
        elif word == "kept":
            kept.append(mask)
            at_hand.remove(mask)
        else:
            assert len(at_hand) <= 4, "a kill cost more than a sweep"
            lost.update(at_hand)
            at_hand = []
    assert set(ran) == set(asked)
    assert ran - lost <= Counter(asked)
    rows = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()[1:]]
    assert len(rows) == len(asked)
    whole, resumed = np.load(tmp_path / "whole.npz"), np.load(tmp_path / "killed.npz")
    for name in "csm":
        assert np.array_equal(whole[name], resumed[name])
    assert resumed["n"] <= whole["n"] == len(asked)

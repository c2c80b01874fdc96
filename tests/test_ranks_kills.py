"""One of two ranks killed at a random moment, a hundred times: the other ends, and nothing is lost or changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
# Ranks are forks of this process, so that torch is imported once.
import os, random, shutil, signal, socket, sys, time
import numpy as np
import torch
torch.set_num_threads(1)
from layershap import LayerPruner
from layershap.forward import engine
from transformers import LlamaConfig, LlamaForCausalLM

engine.SWEEP_MASKS = 4
run = engine.Engine.run
torch.manual_seed(0)
sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=8, **sizes)).eval()
ids = torch.randint(1, 64, (4, 24))


def fit(folder, name, ledger, pause):
    def slow(self, masks, progress):
        open(f"{folder}/{name}.began", "w").close()
        time.sleep(pause)
        return run(self, masks, progress)

    engine.Engine.run = slow
    pruner = LayerPruner(n_masks=60, confidence=1, ledger=ledger, random_state=0).fit(model, ids)
    np.savez(f"{folder}/{name}.npz", c=pruner.contributions_, s=pruner.scores_, m=pruner.masks_)


def started(rank, port, *arguments):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if rank is not None:
                names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
                os.environ.update({name: str(value) for name, value in names.items()} | {"MASTER_PORT": str(port)})
            fit(*arguments)
            status = 0
        except Exception as error:
            if type(error).__name__ != "RanksError":
                print(f"rank {rank}: {type(error).__name__}: {error}", flush=True)
                status = 2
        finally:
            os._exit(status)
    return child


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def ended(child, seconds):
    deadline = time.time() + seconds
    while time.time() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    sys.exit("a rank still waited for one that had been killed")


folder, wanted = sys.argv[1], int(sys.argv[2])
if os.waitpid(started(None, 0, folder, "whole", None, 0), 0)[1] != 0:
    sys.exit("the fit failed")
whole = np.load(f"{folder}/whole.npz")
kills = finished = 0
random.seed(0)
while kills < wanted or not finished:
    place = f"{folder}/run{finished}"
    os.makedirs(place, exist_ok=True)
    port = free_port()
    last = kills >= wanted
    pause = 0 if last else 0.02
    children = [started(rank, port, place, f"found{rank}", f"{place}/ledger.jsonl", pause) for rank in (0, 1)]
    victim = random.randrange(2)
    # Before the ranks have found each other it is the launcher that ends the other one.
    marks = [f"{place}/found{rank}.began" for rank in (0, 1)]
    deadline = time.time() + (0 if last else 30)
    while not all(map(os.path.exists, marks)) and time.time() < deadline:
        time.sleep(0.005)
    if not last:
        time.sleep(random.uniform(0, 0.3))
        os.kill(children[victim], signal.SIGKILL)
    status = [ended(child, 60) for child in children]
    for mark in filter(os.path.exists, marks):
        os.remove(mark)
    if 2 * 256 in status:
        sys.exit(f"a rank failed otherwise: {status}")
    kills += status[victim] == signal.SIGKILL
    if status == [0, 0] or (last and sys.exit(f"the last run failed: {status}")):
        for rank in (0, 1):
            found = np.load(f"{place}/found{rank}.npz")
            if not all(np.array_equal(whole[name], found[name]) for name in whole):
                sys.exit("another result")
        finished += 1
print(kills, "kills,", finished, "fits finished")
"""


def killed(folder: Path, n_kills: int) -> None:
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder), str(n_kills)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert f"{n_kills} kills" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the ranks run in forks")
def test_a_hundred_kills(tmp_path):
    killed(tmp_path, 100)

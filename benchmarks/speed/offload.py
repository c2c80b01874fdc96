"""A model on disk, in a process that couldn't hold it: what is read for how many masks, and the memory it takes.

    python -m benchmarks.speed.offload --write benchmarks/results/offload.md

A Llama-style model with random weights is written to a folder and loaded with its layers offloaded to disk. Then the
process's memory is capped (RLIMIT_DATA) at what it has and an allowance for states and some layers, less than the
weights: with the cap the whole model can't be loaded. Bytes read are those of the tensors that accelerate fetches for
the layers.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import OffloadedWeightsLoader
from transformers import AutoModelForCausalLM

from benchmarks.common import markdown, print_or_write, provenance, random_calibration, random_llama
from layershap import LayerGame


@dataclass(frozen=True)
class Read:
    """What evaluating some masks took."""

    n_masks: int
    path: str
    n_sweeps: int
    bytes_read: int
    seconds: float
    scores: list[float]


def offloaded(folder: Path, n_layers: int) -> Any:
    """The model of a folder with its layers on disk."""
    places: dict[str, str] = {
        "model.embed_tokens": "cpu",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    places |= {f"model.layers.{layer}": "disk" for layer in range(n_layers)}
    model = AutoModelForCausalLM.from_pretrained(folder, device_map=places, offload_folder=folder / "offload")
    return model.eval()


@contextmanager
def counted() -> Iterator[list[int]]:
    """Bytes of each tensor that is fetched for a layer."""
    fetched: list[int] = []
    original = OffloadedWeightsLoader.__getitem__

    def get(self: OffloadedWeightsLoader, key: str) -> torch.Tensor:
        value: torch.Tensor = original(self, key)
        fetched.append(value.numel() * value.element_size())
        return value

    OffloadedWeightsLoader.__getitem__ = get
    try:
        yield fetched
    finally:
        OffloadedWeightsLoader.__getitem__ = original


def cap_memory(allowance: int) -> int:
    """Let this process take `allowance` bytes more than it has; returns the limit."""
    lines = Path("/proc/self/status").read_text().splitlines()
    data = next(int(line.split()[1]) for line in lines if line.startswith("VmData")) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (data + allowance, resource.RLIM_INFINITY))
    return data + allowance


def loads_in_a_fork(folder: Path) -> bool:
    """Whether a process like this one can load the whole model; what it takes on the way is gone with it."""
    child = os.fork()
    if child == 0:
        try:
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        except (RuntimeError, MemoryError):
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def masks_of(n_layers: int, n_masks: int) -> np.ndarray:
    """Random masks that keep three quarters of the layers."""
    return np.random.default_rng(0).random((n_masks, n_layers)) < 0.75


def evaluated(model: Any, n_masks: int, memory_budget: int) -> Read:
    """Score so many masks on 4 x 64 random tokens, in a game of their own."""
    masks_ML = masks_of(model.config.num_hidden_layers, n_masks)
    game = LayerGame(model, random_calibration(model.config.vocab_size, 4, 64), memory_budget=memory_budget)
    game(masks_ML[:1])  # opens the game: the forwards are compared, which reads the layers too
    plan = game.plan(masks_ML)
    start = time.perf_counter()
    with counted() as fetched:
        scores = game(masks_ML)
    return Read(n_masks, game.path, len(plan.sweeps), sum(fetched), time.perf_counter() - start, scores.tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--masks", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = random_llama(options.layers, options.width, 4 * options.width, 8, 1000, torch.float32, "cpu")
        n_bytes = sum(parameter.numel() * parameter.element_size() for parameter in whole.parameters())
        # Each tensor that is read maps its whole file, which the cap counts: so a file for each, or nearly.
        whole.save_pretrained(folder, max_shard_size=4 * 4 * options.width**2)
        del whole
        model = offloaded(folder, options.layers)
        states = 128 * 2**20
        allowance = states + n_bytes // 3
        cap_memory(allowance)
        if loads_in_a_fork(folder):
            raise SystemExit("the cap must not admit the whole model, and it was loaded")
        found = [evaluated(model, n_masks, states) for n_masks in options.masks]
    rows = [
        [f"{each.n_masks:,}", each.path, str(each.n_sweeps), f"{each.bytes_read / 2**20:,.0f}", f"{each.seconds:.1f}"]
        for each in found
    ]
    table = markdown(["masks", "forward", "sweeps", "MiB read", "seconds"], rows)
    mib = 2**20
    text = (
        f"{options.layers} layers of width {options.width} on disk, {n_bytes / mib:,.0f} MiB of weights in float32; "
        f"the process may take {allowance / mib:,.0f} MiB more than it had, {states / mib:,.0f} of them for states:"
    )
    print_or_write(f"{provenance()}\n\n{text}\n\n{table}", options.write)


if __name__ == "__main__":
    main()

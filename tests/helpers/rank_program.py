"""What each rank of a test runs: ``torchrun rank_program.py FOLDER WHAT ...``.

What it found, or its error, goes to FOLDER/WHAT/found.RANK.json.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from layershap import Calibration, Greedy, LayerGame, LayerPruner, LayerShapError, on_own_rank
from layershap.baselines import SLEB
from layershap.datasets import load_tiny_gpt2

RANK, SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def text(n_sequences: int = 32, shift: int = 0) -> Calibration:
    ids_ST = torch.randint(500, (n_sequences, 16), generator=torch.Generator().manual_seed(3 + shift))
    return Calibration(ids_ST, ids_ST.clone())


def found_by(pruner: LayerPruner) -> dict:
    return {
        "contributions": pruner.contributions_.tolist(),
        "sets": {n: pruner.removed_layers(n) for n in (1, 2)},
        "n_evaluated": pruner.diagnostics_["n_evaluated"],
        "layer_runs": pruner.diagnostics_["layer_runs"],
    }


def fit(folder: Path, **settings: object) -> dict:
    """A fit that races on parts of the text, its seed left to chance where several ranks must agree on one."""
    model, _ = load_tiny_gpt2()
    pruner = LayerPruner(max_remove=2, n_masks=40, ledger=folder / "ledger.jsonl", random_state=0, **settings)
    return found_by(pruner.fit(model, text()))


def half_precision(folder: Path) -> dict:
    """A fit whose choice is checked in float32."""
    model = load_tiny_gpt2()[0].to(torch.bfloat16)
    pruner = LayerPruner(max_remove=2, n_masks=40, ledger=folder / "ledger.jsonl", random_state=0).fit(model, text())
    return found_by(pruner) | {"precision": asdict(pruner.diagnostics_["precision"])}


def float32_fails_on_one(folder: Path) -> dict:
    """The same where one rank has no memory for float32."""
    from layershap.forward.engine import Engine

    model, run = load_tiny_gpt2()[0].to(torch.bfloat16), Engine.run

    def without_room(self: Engine, *arguments: object) -> object:
        if RANK == SIZE - 1 and self.model.transformer.wte.weight.dtype == torch.float32:
            raise torch.OutOfMemoryError("no room")
        return run(self, *arguments)

    Engine.run = without_room
    try:
        pruner = LayerPruner(max_remove=2, n_masks=40, random_state=0).fit(model, text())
    finally:
        Engine.run = run
    return found_by(pruner) | {"note": pruner.diagnostics_["precision"].note}


def seed_by_chance(folder: Path) -> dict:
    model, _ = load_tiny_gpt2()
    pruner = LayerPruner(max_remove=2, n_masks=40, selector=Greedy()).fit(model, text(10))
    return {"contributions": pruner.contributions_.tolist()}


def sleb(folder: Path) -> dict:
    model, _ = load_tiny_gpt2()
    method = SLEB(max_remove=2).fit(model, text(10))
    return {"layers": method.removed_layers(2)}


def callable_utility(folder: Path) -> dict:
    model, _ = load_tiny_gpt2()

    def utility(model: torch.nn.Module) -> float:
        return float(model(text(1).ids_ST).logits.abs().mean())

    masks = np.ones((5, 12), dtype=bool)
    masks[np.arange(5), np.arange(5)] = False
    return {"scores": LayerGame(model, text(2), utility=utility)(masks).tolist()}


def other_text(folder: Path) -> dict:
    model, _ = load_tiny_gpt2()
    LayerGame(model, text(shift=RANK))
    return {}


def other_masks(folder: Path) -> dict:
    model, _ = load_tiny_gpt2()
    mask = np.ones(12, dtype=bool)
    mask[RANK] = False
    LayerGame(model, text(4))(mask)
    return {}


def own_work(folder: Path) -> dict:
    model, _ = load_tiny_gpt2()
    mask = np.ones(12, dtype=bool)
    mask[RANK] = False
    with on_own_rank():
        return {"score": LayerGame(model, text(4, shift=RANK))(mask).tolist()}


def ledger_of_one_unwritable(folder: Path) -> dict:
    if RANK == 1:
        (folder / "ledger.jsonl.rank1").mkdir(exist_ok=True)
    return fit(folder)


def dies(folder: Path) -> dict:
    """Rank 1 ends without a word after some masks of a fit."""
    from layershap.game.evaluated import EvaluatedMasks

    kept = EvaluatedMasks._keep

    def keep(self: EvaluatedMasks, *arguments: object) -> None:
        kept(self, *arguments)
        if RANK == 1 and len(self.rows) > 20:
            os._exit(9)

    EvaluatedMasks._keep = keep
    return fit(folder.parent / "fit")


def outcome(what: str, folder: Path) -> dict:
    try:
        return globals()[what](folder)
    except LayerShapError as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[2:]:
        place = Path(sys.argv[1]) / name
        place.mkdir(exist_ok=True)
        (place / f"found.{RANK}.json").write_text(json.dumps(outcome(name, place)))

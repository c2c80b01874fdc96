"""Small games of which every coalition is known, in shapiq's file format for games (`shapiq.Game.load`).

Players are the layers of a language model that are run. The value of a coalition is PPL_orig / PPL on 10 calibration
sequences of 128 tokens. The files are made from the evaluations in `data/values`, without shapiq.

Shapes: M masks, L layers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.leaderboard.board import FOLDER
from benchmarks.values.values import STORED

GAMES = FOLDER / "games"
NAMES = ("gpt2", "mamba2", "stories260k")
SHAPIQ = "1.4.1"
"""The version whose format is written."""
DIGITS = 8
"""Of a value: the losses are stored in float32."""


def every_value(name: str) -> tuple[str, dict[tuple[int, ...], float]]:
    """What was evaluated, and the value of each coalition of layers, all 2^L of them."""
    with np.load(STORED / f"{name}.npz") as data:
        about = json.loads(str(data["about"]))
        masks_ML = np.unpackbits(data["masks"], axis=1, count=about["n_layers"]).astype(bool)
        nll_M, tokens = data["nll"].astype(np.float64).sum(axis=1), float(data["counts"].sum())
    dense = nll_M[masks_ML.all(axis=1)][0]
    values_M = np.exp((dense - nll_M) / tokens)
    found = {tuple(np.flatnonzero(mask).tolist()): float(v) for mask, v in zip(masks_ML, values_M, strict=True)}
    if len(found) != 2 ** masks_ML.shape[1]:
        raise ValueError(f"{name} must have all {2 ** masks_ML.shape[1]} coalitions stored, it has {len(found)}")
    return about["title"], dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))


def shapiq_data(name: str) -> dict[str, Any]:
    """What the file holds."""
    title, values = every_value(name)
    n_players = max(map(len, values))
    return {
        "object_name": "Game",
        "data_type": "game",
        "version": SHAPIQ,
        "created_from": "layershap, benchmarks/leaderboard/games.py",
        "description": f"Layers of {title}: PPL_orig / PPL of the model that runs a coalition's layers only.",
        "parameters": {},
        "timestamp": None,
        "metadata": {
            "n_players": n_players,
            "game_name": f"layers_{name}",
            "normalization_value": _short(values[()]),
            "precompute_flag": True,
            "precomputed": True,
            "player_names": [f"layer {layer}" for layer in range(n_players)],
        },
        "data": {_key(coalition): _short(value) for coalition, value in values.items()},
    }


def write_games(folder: Path = GAMES) -> list[Path]:
    """All games, a coalition a line."""
    folder.mkdir(exist_ok=True)
    paths = []
    for name in NAMES:
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(json.dumps(shapiq_data(name), indent=0) + "\n", encoding="utf-8")
    return paths


def read_game(path: Path) -> tuple[list[str], dict[frozenset[int], float], float]:
    """Names of the players, value of each coalition, value that normalising subtracts; by the format's own rules."""
    data = json.loads(path.read_text(encoding="utf-8"))
    values = {
        frozenset(() if key == "Empty" else map(int, key.split(","))): float(value)
        for key, value in data["data"].items()
    }
    return data["metadata"]["player_names"], values, float(data["metadata"]["normalization_value"])


def best_removals(name: str) -> dict[int, list[int]]:
    """Of each number of removed layers the set that leaves the highest value: no method can do better on this text."""
    _, values = every_value(name)
    n_layers = max(map(len, values))
    found: dict[int, tuple[float, list[int]]] = {}
    for coalition, value in values.items():
        removed = sorted(set(range(n_layers)) - set(coalition))
        if 0 < len(removed) < n_layers and value > found.get(len(removed), (-1.0, []))[0]:
            found[len(removed)] = (value, removed)
    return {n: removed for n, (_, removed) in sorted(found.items())}


def _key(coalition: tuple[int, ...]) -> str:
    return ",".join(map(str, coalition)) or "Empty"


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")

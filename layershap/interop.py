"""To other tools: the game as a shapiq game, a set of removed layers for mergekit and llama.cpp.

Shapes: M masks, P players (layers that can be removed), L layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from layershap.extras import require
from layershap.masks import over_layers, without
from layershap.model.stack import check_layer_indices
from layershap.protocols import FloatArray, MaskArray


class PlayableGame(Protocol):
    """What `to_shapiq` needs of a game; `LayerGame` qualifies."""

    unremovable: dict[int, str]

    @property
    def n_players(self) -> int:
        """Number of players L."""
        ...

    def __call__(self, masks: MaskArray) -> FloatArray:
        """Scores [M] of `masks` [M, L]."""
        ...


def to_shapiq(game: PlayableGame) -> Any:
    """The game as a ``shapiq.Game``, for its approximators, interaction indices and plots (extra ``shapiq``).

    Players are the layers that can be removed alone, named ``layer 0``, ``layer 1``, ...; the others always run. Values
    are normalised as shapiq expects: the score of the coalition without players is subtracted. Masks that the game
    has seen cost nothing, so shapiq's approximators share them with each other and with `LayerPruner`'s ledger.

    A `LayerGame` without unremovable layers can also be given to shapiq's approximators as it is.

    Parameters
    ----------
    game : LayerGame
        Or another game with `n_players` and `unremovable`.

    Returns
    -------
    shapiq.Game
        Game with P players.

    Raises
    ------
    MissingExtraError
        shapiq is not installed; the message holds the pip command.

    Examples
    --------
    >>> from shapiq.approximator import KernelSHAP                               # doctest: +SKIP
    >>> KernelSHAP(n=12).approximate(budget=512, game=to_shapiq(game))           # doctest: +SKIP
    """
    shapiq = require("shapiq", "layershap[shapiq]", "to_shapiq")
    removable = without(game.unremovable, game.n_players)
    players = np.flatnonzero(removable)

    def scores(coalitions_MP: MaskArray) -> FloatArray:
        coalitions_MP = np.atleast_2d(coalitions_MP).astype(bool)
        return game(over_layers(coalitions_MP, removable))

    class ShapiqLayerGame(shapiq.Game):  # type: ignore[name-defined]
        def value_function(self, coalitions: MaskArray) -> FloatArray:
            return scores(coalitions)

    return ShapiqLayerGame(
        n_players=len(players),
        normalization_value=float(scores(np.zeros((1, len(players)), dtype=bool))[0]),
        player_names=[f"layer {layer}" for layer in players],
    )


def mergekit_config(removed: Iterable[int], n_layers: int, model: str, *, dtype: str = "bfloat16") -> str:
    """YAML for ``mergekit-yaml`` that keeps a model's other layers, by the passthrough method.

    Parameters
    ----------
    removed : iterable of int
        Layers to leave out (`LayerPruner.removed_layers`).
    n_layers : int
        Number of layers L of the model.
    model : str
        Name of the model on the hub, or its path.
    dtype : str, default='bfloat16'
        Precision of the written weights.

    Returns
    -------
    str
        YAML with one slice for each run of kept layers; its `layer_range` is half-open.
    """
    gone = set(check_layer_indices(removed, n_layers))
    kept = [layer for layer in range(n_layers) if layer not in gone]
    if not kept:
        raise ValueError(f"at least one of the {n_layers} layers must stay")
    if not model or "\n" in model:
        raise ValueError(f"model must be a name or path, got {model!r}")
    starts = [layer for layer in kept if layer - 1 not in kept]
    ends = [layer + 1 for layer in kept if layer + 1 not in kept]
    quoted = "'" + model.replace("'", "''") + "'"
    lines = ["slices:"]
    for start, end in zip(starts, ends, strict=True):
        lines += ["  - sources:", f"      - model: {quoted}", f"        layer_range: [{start}, {end}]"]
    return "\n".join([*lines, "merge_method: passthrough", f"dtype: {dtype}", ""])


def llama_cpp_arguments(removed: Iterable[int], n_layers: int) -> list[str]:
    """Arguments that make llama.cpp's ``llama-quantize`` leave layers out: ``['--prune-layers', '3,7,11']``.

    They come before the input file, ``llama-quantize --prune-layers 3,7,11 model-f16.gguf pruned.gguf q4_k_m``, which
    must hold the dense model, or layers would be removed twice.

    Parameters
    ----------
    removed : iterable of int
        Layers to leave out (`LayerPruner.removed_layers`).
    n_layers : int
        Number of layers L of the model.

    Returns
    -------
    list of str
        Two arguments of the command line.
    """
    layers = check_layer_indices(removed, n_layers)
    if not 0 < len(layers) < n_layers:
        raise ValueError(f"between 1 and {n_layers - 1} layers must be removed, got {len(layers)}")
    return ["--prune-layers", ",".join(map(str, layers))]

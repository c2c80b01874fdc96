"""To other tools: the game as a shapiq game, a set of removed layers for mergekit and llama.cpp, a folder for a hub.

Shapes: M masks, P players (layers that can be removed), L layers.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from huggingface_hub import HfApi

from layershap.exceptions import CheckpointWarning
from layershap.extras import require
from layershap.masks import over_layers, without
from layershap.model.stack import check_layer_indices
from layershap.protocols import FloatArray, MaskArray
from layershap.surgery.config import prune_config
from layershap.surgery.recipe_file import RECIPE_FILE
from layershap.warning import warn_user

_ARRAYS_FROM_WEIGHTS = {"apertus": "the activation's parameters"}
"""Model types whose GGUF holds per-layer arrays that no field of the config tells of."""
_CARD = "README.md"
_WEIGHTS = re.compile(r"[\w.-]+\.(safetensors|gguf)")
_MODEL_FILES = re.compile(r"[\w.-]+\.(json|jinja|model|txt|py|safetensors|gguf)|README\.md|LICENSE[\w.-]*")


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


def llama_cpp_arguments(removed: Iterable[int], n_layers: int, *, config: Any = None) -> list[str]:
    """Arguments that make llama.cpp's ``llama-quantize`` leave layers out: ``['--prune-layers', '3,7,11']``.

    They come before the input file, ``llama-quantize --prune-layers 3,7,11 model-f16.gguf pruned.gguf q4_k_m``, which
    must hold the dense model, or layers would be removed twice.

    Parameters
    ----------
    removed : iterable of int
        Layers to leave out (`LayerPruner.removed_layers`).
    n_layers : int
        Number of layers L of the model.
    config : PretrainedConfig, optional
        Config of the whole model. With it a `CheckpointWarning` says where ``--prune-layers`` isn't enough: what the
        config says of single layers is in the GGUF file as a list with an entry for each layer, which llama.cpp leaves
        uncut (its issue 27976), or is computed from a layer's index, which the removal changes.

    Returns
    -------
    list of str
        Two arguments of the command line.
    """
    layers = check_layer_indices(removed, n_layers)
    if not 0 < len(layers) < n_layers:
        raise ValueError(f"between 1 and {n_layers - 1} layers must be removed, got {len(layers)}")
    if config is not None and (said := _said_of_layers(config, layers, n_layers)):
        warn_user(
            f"llama.cpp's --prune-layers takes the layers' tensors out and leaves what the file says of single layers "
            f"as it was (llama.cpp issue 27976); of this model that is {', '.join(said)}. Remove the layers here and "
            "convert the saved folder with convert_hf_to_gguf.py instead",
            CheckpointWarning,
        )
    return ["--prune-layers", ",".join(map(str, layers))]


def _said_of_layers(config: Any, removed: list[int], n_layers: int) -> list[str]:
    """What besides the number of layers must change with the removal, and isn't the same for all layers."""
    decoder = copy.deepcopy(config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config)
    kept = [layer for layer in range(n_layers) if layer not in removed]
    changed = prune_config(decoder, n_layers, kept)
    said = [
        name
        for name, (old, new) in changed.items()
        if old != n_layers and not (isinstance(new, list | tuple) and len({*map(str, old)}) == 1)
    ]
    by_weights = _ARRAYS_FROM_WEIGHTS.get(str(getattr(decoder, "model_type", "")).removesuffix("_text"))
    return said + ([by_weights] if by_weights else [])


def push_folder(
    folder: str | PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    dry_run: bool = False,
) -> list[str]:
    """Upload the folder of a pruned model to the Hugging Face hub, with its model card and its recipe.

    ``model.push_to_hub`` of transformers uploads weights and config only: without the recipe of `save_pruned` a model
    that its config can't express would come back as another one, and no card would say what was removed. Files are
    uploaded as they are, in one commit. Subfolders, hidden files and files of other kinds (ledgers, checkpoints of a
    training) stay where they are.

    Parameters
    ----------
    folder : path
        What ``save_pretrained`` or `save_pruned` wrote, with the card (``report.to_model_card(...).save(folder /
        "README.md")``; the command ``layershap prune`` writes it).
    repo_id : str
        Repository, ``owner/name``; created if there is none.
    private : bool, optional
        Whether a repository that is created is private; None for the owner's default.
    token : str or bool, optional
        As in ``huggingface_hub``; None for the stored one.
    dry_run : bool, default=False
        Check the folder and tell what would be uploaded; nothing is sent.

    Returns
    -------
    list of str
        Names of the files, sorted.

    Raises
    ------
    FileNotFoundError
        The folder lacks the config, weights or the card, or weights that an index or a recipe names.
    """
    place = Path(folder)
    names = sorted(path.name for path in place.iterdir() if path.is_file()) if place.is_dir() else []
    names = [name for name in names if not name.startswith(".") and _MODEL_FILES.fullmatch(name)]
    missing = [name for name in ("config.json", _CARD, *_named_files(place, names)) if name not in names]
    if not any(_WEIGHTS.fullmatch(name) for name in names):
        missing.append("weights (*.safetensors)")
    if missing:
        raise FileNotFoundError(
            f"{place} must hold a whole pruned model with its card; it lacks {', '.join(dict.fromkeys(missing))}. Save "
            f"with save_pretrained or save_pruned, and the card with report.to_model_card(n, name=...).save(...)"
        )
    if not dry_run:
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        message = "Pruned model, card and recipe" if RECIPE_FILE in names else "Pruned model and card"
        api.upload_folder(repo_id=repo_id, folder_path=place, allow_patterns=names, commit_message=message)
    return names


def _named_files(place: Path, names: list[str]) -> list[str]:
    """Files that an index of weights or a recipe says belong to the model."""
    found: set[str] = set()
    for name in names:
        if name.endswith(".index.json"):
            found |= set(json.loads((place / name).read_text(encoding="utf-8"))["weight_map"].values())
        elif name == RECIPE_FILE:
            found |= set(json.loads((place / name).read_text(encoding="utf-8")).get("files", {}))
    return sorted(found)

"""The file that holds a pruning recipe: data only, checked field by field before anything is built from it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from layershap.surgery.config import layer_counts
from layershap.surgery.recipe import NOT_OF_THE_MODEL, PruningRecipe

RECIPE_FILE = "layershap_recipe.json"
FORMAT = 2
CONFIG_FILE = "config.json"

_FIELDS = {
    "format": int,
    "transformers": str,
    "model_class": str,
    "original_config": dict,
    "path": str,
    "n_layers": int,
    "removed": list,
    "sublayers": list,
    "plain": bool,
    "buffer_dtypes": dict,
    "files": dict,
}
_KINDS = ("mixer", "feed_forward", "layer")
_DTYPES = ("float64", "float32", "float16", "bfloat16")
_WEIGHTS = re.compile(r"model(\.layershap)?(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
# Fields by which a config would have code run, other weights loaded or a package imported.
_FORBIDDEN_FIELDS = NOT_OF_THE_MODEL | {
    "quantization_config",
    "use_pretrained_backbone",
    "backbone",
    "base_model_name_or_path",
}
_MOST_LAYERS = 10_000  # ten times as many as any known model has: a larger number is a damaged or hostile file


@dataclass(frozen=True)
class RecipeFile:
    """What a recipe file holds.

    Attributes
    ----------
    recipe : PruningRecipe
        How to build the model.
    buffer_dtypes : dict of str to str
        The precision of the buffers that are computed, not saved.
    files : dict of str to str
        SHA-256 digests of the config and the weights that the recipe belongs to, by file name.
    """

    recipe: PruningRecipe
    buffer_dtypes: dict[str, str]
    files: dict[str, str]

    @property
    def weights(self) -> list[str]:
        """Names of the files with the weights."""
        return sorted(name for name in self.files if name.endswith(".safetensors"))

    def write(self, folder: Path, transformers_version: str) -> None:
        """Write the recipe into `folder`."""
        recipe = self.recipe
        content = {
            "format": FORMAT,
            "transformers": transformers_version,
            "model_class": recipe.model_class,
            "original_config": recipe.original_config,
            "path": recipe.path,
            "n_layers": recipe.n_layers,
            "removed": recipe.removed,
            "sublayers": recipe.sublayers,
            "plain": recipe.plain,
            "buffer_dtypes": self.buffer_dtypes,
            "files": self.files,
        }
        (folder / RECIPE_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_recipe(folder: Path) -> RecipeFile:
    """Read the recipe of a folder.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        It is damaged, of another format, or holds what no recipe may hold.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} must hold {RECIPE_FILE}, written by save_pruned; it does not. "
            "Load a plain checkpoint with AutoModelForCausalLM.from_pretrained."
        )
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be a JSON file written by save_pruned; it can't be read ({error})") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT or isinstance(stored["format"], bool):
        found = stored.get("format") if isinstance(stored, dict) else type(stored).__name__
        raise ValueError(
            f"{path} must be of format {FORMAT}, got {found!r}: it was written by another version of layershap. Load "
            "it with that version, or prune and save the model again."
        )
    return _parse(path, stored)


def _parse(path: Path, stored: dict[str, Any]) -> RecipeFile:
    if stored.keys() != _FIELDS.keys():
        _refuse(path, f"hold exactly the fields {sorted(_FIELDS)}", sorted(stored.keys() ^ _FIELDS.keys()))
    for name, kind in _FIELDS.items():
        if not isinstance(stored[name], kind) or (kind is int and isinstance(stored[name], bool)):
            _refuse(path, f"hold a {kind.__name__} as {name}", stored[name])
    n_layers, removed, sublayers = stored["n_layers"], stored["removed"], stored["sublayers"]
    if not 0 < n_layers <= _MOST_LAYERS:
        _refuse(path, f"name 1 to {_MOST_LAYERS} layers", n_layers)
    if not all(type(i) is int for i in removed) or removed != sorted(set(removed) & set(range(n_layers))):
        _refuse(path, f"list the removed ones of {n_layers} layers in order", removed)
    if len(removed) >= n_layers:
        _refuse(path, "leave a layer", removed)
    left = set(range(n_layers)) - set(removed)
    for entry in sublayers:
        if not isinstance(entry, list) or len(entry) != 2 or type(entry[0]) is not int or entry[0] not in left:
            _refuse(path, "list sublayers as [layer that stays, kind]", entry)
        if entry[1] not in _KINDS:
            _refuse(path, f"name sublayers of the kinds {_KINDS}", entry)
    for name in ("model_class", "path"):
        if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*" if name == "path" else r"[A-Za-z_]\w*", stored[name]) is None:
            _refuse(path, f"hold a plain name as {name}", stored[name])
    if not all(dtype in _DTYPES for dtype in stored["buffer_dtypes"].values()):
        _refuse(path, f"hold precisions of {_DTYPES}", stored["buffer_dtypes"])
    for name, digest in stored["files"].items():
        if (name != CONFIG_FILE and _WEIGHTS.fullmatch(name) is None) or not isinstance(digest, str):
            _refuse(path, "name files of its own folder that save_pruned writes, with their digests", name)
    problem = config_problem(stored["original_config"])
    if problem:
        _refuse(path, "hold a config of data only", problem)
    recipe = PruningRecipe(
        model_class=stored["model_class"],
        original_config=stored["original_config"],
        path=stored["path"],
        n_layers=n_layers,
        removed=tuple(removed),
        plain=stored["plain"],
        sublayers=tuple((layer, kind) for layer, kind in sublayers),
    )
    return RecipeFile(recipe, stored["buffer_dtypes"], stored["files"])


def _refuse(path: Path, invariant: str, got: Any) -> NoReturn:
    shown = repr(got)
    raise ValueError(
        f"{path} must {invariant}, got {shown if len(shown) < 200 else shown[:200] + '...'}. It is damaged, or was not "
        "written by save_pruned: do not load it."
    )


def config_problem(config: Mapping[str, Any]) -> str:
    """What in a config is no plain data about the model (code, a repository, a path); empty if nothing is."""
    for name, value in config.items():
        if name in _FORBIDDEN_FIELDS and value not in (None, False):
            return f"the field {name}={value!r}"
        problem = _value_problem(name, value)
        if problem:
            return problem
    return ""


def _value_problem(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return config_problem(value)
    if isinstance(value, list):
        return next(filter(None, (_value_problem(name, entry) for entry in value)), "")
    if isinstance(value, str) and (re.search(r"[/\\]|\.\.|^~|^[A-Za-z]:", value) or len(value) > 500):
        return f"{name}={value[:100]!r}, which could be a path or a repository"
    return ""


def refuse_too_many_layers(file: RecipeFile, n_tensors: int, path: Path) -> None:
    """Raise if the config counts more layers than the weights could fill: before anything is built from it."""
    most = file.recipe.n_layers + n_tensors
    if len(file.recipe.left) > n_tensors:
        _refuse(path, f"leave no more layers than there are tensors ({n_tensors})", len(file.recipe.left))
    for name, count in layer_counts(file.recipe.original_config):
        if count > most:
            _refuse(path, f"count at most {most} layers, for weights of {n_tensors} tensors", f"{name}={count}")


def digest(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Saving pruned models, also those that their architecture's config can't express.

A checkpoint is a standard transformers folder (config, generation config, safetensors) plus ``layershap_recipe.json``:
the original config and the removed layers. Loading builds the model from the ORIGINAL config, deletes the same layers
and loads the weights strictly, so a layer that has its index in its mathematics keeps it.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils.modeling import get_state_dict_offloaded_model
from safetensors.torch import load_file
from torch import nn

from layershap.exceptions import CheckpointWarning, UnsupportedModelError
from layershap.model.io import is_quantized
from layershap.model.split import find_sublayers
from layershap.surgery.recipe import PruningRecipe, keep_recipe, pruning_recipe
from layershap.surgery.reload import base_model
from layershap.surgery.remove import remove_layers, remove_sublayers

RECIPE_FILE = "layershap_recipe.json"
_FORMAT = 1


def save_pruned(model: nn.Module, folder: str | PathLike[str], *, tokenizer: Any = None) -> Path:
    """Save a pruned model so that `load_pruned` gives it back exactly.

    Parameters
    ----------
    model : nn.Module
        A transformers model returned by `layershap.remove_layers` or `remove_sublayers`, offloaded by accelerate or
        not. Its generation config goes with it.
    folder : path
        Created if missing.
    tokenizer : PreTrainedTokenizerBase or ProcessorMixin, optional
        Saved beside the model with its chat template, so that ``AutoTokenizer.from_pretrained(folder)`` finds it.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    TypeError
        The model is not one that `remove_layers` returned, or not a transformers model.
    UnsupportedModelError
        Its weights are quantised: they can't be put into a model built from its config.
    """
    recipe = pruning_recipe(model)
    if recipe is None:
        raise TypeError(
            f"save_pruned needs a transformers model returned by layershap.remove_layers, got {type(model).__name__} "
            "without a recipe. Save other modules with their own method (save_pretrained, or their state_dict)."
        )
    base = base_model(model)
    if is_quantized(base):
        raise UnsupportedModelError(
            f"save_pruned must rebuild the {type(base).__name__} from its config, which does not hold for quantised "
            "weights. Prune, save_pruned, load_pruned and quantise then; or, if remove_layers did not warn, use the "
            "model's own save_pretrained."
        )
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    offloaded = any(parameter.device.type == "meta" for parameter in base.parameters())
    base.save_pretrained(
        target,
        state_dict=get_state_dict_offloaded_model(base) if offloaded else None,
        # It would rename and split weights for other loaders; this folder has its own.
        save_original_format=False,
    )
    if tokenizer is not None:
        tokenizer.save_pretrained(target)
    text = json.dumps({"format": _FORMAT, "transformers": transformers.__version__, **asdict(recipe)}, indent=2)
    (target / RECIPE_FILE).write_text(text + "\n", encoding="utf-8")
    return target


def load_pruned(
    folder: str | PathLike[str], *, model_class: type[nn.Module] | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """Load a model that `save_pruned` saved.

    Parameters
    ----------
    folder : path
        The checkpoint.
    model_class : type, optional
        The model's class, where it is not one of transformers' own.
    dtype : torch.dtype, optional
        The weights' own by default.

    Returns
    -------
    nn.Module
        The pruned model, on the CPU and in evaluation mode.

    Raises
    ------
    FileNotFoundError
        No recipe in the folder: load it with ``AutoModelForCausalLM.from_pretrained``.
    ValueError
        The recipe's format or class is unknown, or the weights don't fit.
    """
    source = Path(folder)
    path = source / RECIPE_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{source} must hold {RECIPE_FILE}, written by save_pruned; it does not. "
            "Load a plain checkpoint with AutoModelForCausalLM.from_pretrained."
        )
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored.pop("format", None) != _FORMAT:
        raise ValueError(f"{path} must be of format {_FORMAT}; it was written by another version of layershap")
    stored.pop("transformers", None)
    recipe = PruningRecipe(
        **{
            **stored,
            "removed": tuple(stored["removed"]),
            "sublayers": tuple((layer, kind) for layer, kind in stored.get("sublayers", ())),
        }
    )
    state = _state_dict(source)
    if dtype is None:
        dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)
    model: Any = _original_model(recipe, model_class).to(dtype)
    model.tie_weights()
    _remove_as_before(model, recipe)
    _load_strictly(model, state)
    keep_recipe(model, recipe)
    generation = source / "generation_config.json"
    if generation.is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(source)
    return model.eval()


def _remove_as_before(model: nn.Module, recipe: PruningRecipe) -> None:
    if recipe.removed:
        remove_layers(model, recipe.removed, copy=False, stack=recipe.path, check=False)
    if recipe.sublayers:
        stack = find_sublayers(model, recipe.path, causal=False)
        named = [stack.names.index(f"{recipe.left.index(layer)}.{kind}") for layer, kind in recipe.sublayers]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CheckpointWarning)
            remove_sublayers(model, named, copy=False, stack=stack, check=False)


def _original_model(recipe: PruningRecipe, model_class: type[nn.Module] | None) -> Any:
    chosen: Any = model_class or getattr(transformers, recipe.model_class, None)
    if chosen is None:
        raise ValueError(
            f"{recipe.model_class} must be a class of the installed transformers ({transformers.__version__}), it is "
            "not. Pass model_class= for a model with its own code."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.json")
        path.write_text(json.dumps(recipe.original_config), encoding="utf-8")
        config = chosen.config_class.from_json_file(path)
    return chosen._from_config(config)


def _state_dict(source: Path) -> dict[str, torch.Tensor]:
    files = sorted(source.glob("model*.safetensors"))
    if not files:
        raise ValueError(f"{source} must hold safetensors weights (model*.safetensors), it holds none")
    state: dict[str, torch.Tensor] = {}
    for file in files:
        state.update(load_file(file))
    return state


def _load_strictly(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load `state`; only weights that share their memory with a loaded one may be missing."""
    outcome = model.load_state_dict(state, strict=False)
    own = model.state_dict()
    loaded = {own[name].data_ptr() for name in state if name in own}
    missing = [name for name in outcome.missing_keys if own[name].data_ptr() not in loaded]
    if missing or outcome.unexpected_keys:
        raise ValueError(
            f"the weights must fit the rebuilt {type(model).__name__} exactly: missing {missing[:5]}, unexpected "
            f"{outcome.unexpected_keys[:5]}. Load them with the transformers version that saved them."
        )

"""Saving pruned models, also those that their architecture's config can't express.

A checkpoint is a folder of safetensors and a config, plus ``layershap_recipe.json``: the original config, the removed
layers, and digests of the files that belong to it. Loading builds the model from the ORIGINAL config, deletes the same
layers and loads the weights strictly, so a layer that has its index in its mathematics keeps it. Where the config can
express the result, ``from_pretrained`` loads the folder too; where it can't, it refuses with a sentence.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils.modeling import get_state_dict_offloaded_model
from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn

from layershap.exceptions import SurgeryCheckError, UnsupportedModelError
from layershap.model.agreement import MODEL_ERRORS, plain_logits, relative_difference, tolerance
from layershap.model.io import base_model, holds_adapters, is_quantized
from layershap.surgery.check import check_depth
from layershap.surgery.rebuild import rebuild
from layershap.surgery.recipe import PruningRecipe, current_recipe
from layershap.surgery.recipe_file import (
    CONFIG_FILE,
    RECIPE_FILE,
    RecipeFile,
    config_problem,
    digest,
    read_recipe,
)
from layershap.surgery.reload import reload_problem

__all__ = ["RECIPE_FILE", "load_pruned", "save_pruned"]

_WEIGHT_FILES = re.compile(r"(model|pytorch_model)[\w.-]*\.(safetensors|bin|index\.json)")
# transformers reads this field of a config as the name of the file with the weights, and shows it where it is none.
_PLAIN_LOADING_FAILS = "this model was pruned by layershap and its config can't express it: load it with load_pruned"


def save_pruned(model: nn.Module, folder: str | PathLike[str], *, tokenizer: Any = None) -> Path:
    """Save a pruned model so that `load_pruned` gives it back exactly.

    All files are written beside their final place first: a save that is interrupted leaves no folder that loads as
    another model.

    Parameters
    ----------
    model : nn.Module
        A transformers model returned by `layershap.remove_layers` or `remove_sublayers`, offloaded by accelerate or
        not. Its generation config goes with it, and so do changes of its config after the removal (an untied head, a
        resized vocabulary, another rope scaling).
    folder : path
        Folder to write, created if missing. An earlier `save_pruned` in it is replaced.
    tokenizer : PreTrainedTokenizerBase or ProcessorMixin, optional
        Tokenizer to save beside the model with its chat template, so that ``AutoTokenizer.from_pretrained(folder)``
        finds it.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    TypeError
        The model is not one that `remove_layers` returned, not a transformers model, or holds PEFT adapters.
    UnsupportedModelError
        Its weights are quantised, or fields about its layers were changed after the removal: no model with these can
        be built from its config.
    SurgeryCheckError
        The folder would give another model (checked up to 100 M parameters): its modules were changed in a way that
        its config does not say.
    FileExistsError
        The folder holds the weights of another model.

    See Also
    --------
    load_pruned : Loads the folder.
    """
    recipe = current_recipe(model)
    if recipe is None:
        raise TypeError(
            f"save_pruned needs a transformers model returned by layershap.remove_layers, got {type(model).__name__} "
            "without a recipe. Save other modules with their own method (save_pretrained, or their state_dict)."
        )
    base = base_model(model)
    _check_can_be_saved(model, base, recipe)
    if tokenizer is not None and not hasattr(tokenizer, "save_pretrained"):
        raise TypeError(f"tokenizer must be a tokenizer or processor of transformers, got {type(tokenizer).__name__}")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    earlier = _own_files(target)
    now_BTV = None if any(p.device.type == "meta" for p in base.parameters()) else plain_logits(base)
    plain = recipe.plain and reload_problem(base, recipe.path, now_BTV) is None
    with tempfile.TemporaryDirectory(dir=target, prefix=".saving-") as place:
        staged = Path(place)
        _write_model(base, recipe, staged, plain=plain)
        names = sorted(p.name for p in staged.iterdir() if p.name == CONFIG_FILE or _WEIGHT_FILES.fullmatch(p.name))
        files = {name: digest(staged / name) for name in names}
        RecipeFile(replace(recipe, plain=plain), _computed_buffers(base), files).write(staged, transformers.__version__)
        if now_BTV is not None and check_depth(base, "auto").generation:
            _check_comes_back(base, staged, now_BTV)
        if tokenizer is not None:
            tokenizer.save_pretrained(staged)
        # The recipe goes first: with it, half a folder is refused.
        for path in sorted(staged.iterdir(), key=lambda path: path.name != RECIPE_FILE):
            if path.is_dir():  # further chat templates of the tokenizer
                shutil.copytree(path, target / path.name, dirs_exist_ok=True)
            else:
                os.replace(path, target / path.name)
        for name in earlier - {*files}:
            (target / name).unlink(missing_ok=True)
    return target


def _check_can_be_saved(model: nn.Module, base: nn.Module, recipe: PruningRecipe) -> None:
    if holds_adapters(model):
        raise TypeError(
            f"save_pruned takes a model without adapters, got {type(model).__name__} with PEFT's. Merge them first "
            "(model.merge_and_unload()); or save them alone (model.save_pretrained) and load them into the pruned base."
        )
    if is_quantized(base):
        raise UnsupportedModelError(
            f"save_pruned must rebuild the {type(base).__name__} from its config, which does not hold for quantised "
            "weights. Prune, save_pruned, load_pruned and quantise then; or, if remove_layers did not warn, use the "
            "model's own save_pretrained."
        )
    if recipe.conflicts:
        raise UnsupportedModelError(
            f"fields about the layers of {type(base).__name__} must be as the removal left them, "
            f"{list(recipe.conflicts)} were changed after it. Change them before remove_layers."
        )
    problem = config_problem(recipe.original_config)
    if problem:
        raise UnsupportedModelError(
            f"the config of {type(base).__name__} must be data only to go into a recipe, it has {problem}. Remove that "
            "field from model.config before remove_layers."
        )


def _own_files(folder: Path) -> set[str]:
    """The files of an earlier save_pruned in the folder; raise if there are weights that are not of one."""
    present = {path.name for path in folder.iterdir()}
    own = set(read_recipe(folder).files) if RECIPE_FILE in present else set()
    foreign = sorted(name for name in present - own if _WEIGHT_FILES.fullmatch(name))
    if foreign:
        raise FileExistsError(
            f"{folder} must hold no weights but those of an earlier save_pruned, it holds {foreign}. Name another "
            "folder, or delete them first."
        )
    return own - {CONFIG_FILE}


def _write_model(base: Any, recipe: PruningRecipe, folder: Path, *, plain: bool) -> None:
    """Config, generation config and weights: loaded by from_pretrained if plain, else refused by it."""
    offloaded = any(parameter.device.type == "meta" for parameter in base.parameters())
    state = get_state_dict_offloaded_model(base) if offloaded else None
    if plain:
        # The original format would rename and split weights for other loaders; this folder has its own.
        base.save_pretrained(folder, state_dict=state, save_original_format=False)
        return
    config = {
        "architectures": [recipe.model_class],
        **recipe.original_config,
        "transformers_weights": _PLAIN_LOADING_FAILS,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if getattr(base, "generation_config", None) is not None:
        base.generation_config.save_pretrained(folder)
    # Nor do these names say "weights" to from_pretrained.
    save_torch_state_dict(
        base.state_dict() if state is None else state, folder, filename_pattern="model.layershap{suffix}.safetensors"
    )
    (folder / "model.layershap.safetensors.index.json").unlink(missing_ok=True)


def _computed_buffers(base: nn.Module) -> dict[str, str]:
    """Precision of the buffers that no checkpoint holds."""
    saved = base.state_dict().keys()
    return {
        name: str(buffer.dtype).removeprefix("torch.")
        for name, buffer in base.named_buffers()
        if name not in saved and buffer.is_floating_point()
    }


def _check_comes_back(base: nn.Module, folder: Path, logits_BTV: Tensor) -> None:
    device = next(base.parameters()).device
    try:
        loaded = load_pruned(folder, model_class=type(base)).to(device)
        difference = relative_difference(plain_logits(loaded), logits_BTV)
    except MODEL_ERRORS as error:
        raise SurgeryCheckError(f"{type(base).__name__} as saved must load again, it does not: {error}") from error
    if not difference <= tolerance(base):
        raise SurgeryCheckError(
            f"{type(base).__name__} as saved must give the logits that it gives now, they differ by {difference:.2g} "
            "of the largest logit. Were modules changed after the removal without their config? Change both."
        )


def load_pruned(
    folder: str | PathLike[str], *, model_class: type[nn.Module] | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """Load a model that `save_pruned` saved.

    The recipe in the folder is data: it names no code, no repository and no file outside the folder, and is refused
    otherwise.

    Parameters
    ----------
    folder : path
        Folder of the checkpoint.
    model_class : type, optional
        The model's class, where it is not one of transformers' own.
    dtype : torch.dtype, optional
        Precision of the weights. Weights that the architecture keeps in float32, or that the checkpoint holds in
        another precision than most (routers, say), keep theirs. By default every weight has the precision it was saved
        in.

    Returns
    -------
    nn.Module
        The pruned model, on the CPU and in evaluation mode.

    Raises
    ------
    FileNotFoundError
        No recipe in the folder: load it with ``AutoModelForCausalLM.from_pretrained``.
    ValueError
        The recipe's format or class is unknown, or it holds what no recipe may hold; the weights or the config were
        replaced since, or don't fit.

    See Also
    --------
    save_pruned : Writes the folder.
    """
    source = Path(folder)
    file = read_recipe(source)
    model = rebuild(source, file, model_class, dtype)
    if (source / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(source)
    return model.eval()

"""Building a pruned model from its recipe and its weights: the checks before it, the precision, the strict loading."""

from __future__ import annotations

import json
import math
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from layershap.compensation.compensating import CONFIG_FIELD
from layershap.exceptions import CheckpointWarning
from layershap.model.agreement import MODEL_ERRORS
from layershap.model.split import find_sublayers
from layershap.surgery.indices import rename
from layershap.surgery.recipe import PruningRecipe, keep_recipe
from layershap.surgery.recipe_file import CONFIG_FILE, RECIPE_FILE, RecipeFile, digest, refuse_too_many_layers
from layershap.surgery.remove import remove_layers, remove_sublayers


def rebuild(source: Path, file: RecipeFile, model_class: type[nn.Module] | None, dtype: torch.dtype | None) -> Any:
    """The model of a recipe with the weights beside it.

    Parameters
    ----------
    source : Path
        The folder.
    file : RecipeFile
        Its recipe.
    model_class : type, optional
        The model's class; the one of transformers that the recipe names otherwise.
    dtype : torch.dtype, optional
        Precision of the weights; that in which they were saved otherwise.

    Raises
    ------
    ValueError
        The class is unknown; weights or config were replaced since, or don't fit.
    """
    state = _state_dict(source, file)
    recipe = file.recipe
    refuse_too_many_layers(file, len(state), source / RECIPE_FILE)
    chosen = _model_class(recipe, model_class)
    _refuse_other_shapes(chosen, recipe, state, source)
    main = _main_dtype(state)
    with torch.device("cpu"):  # whatever torch's default device is
        model: Any = chosen._from_config(_original_config(chosen, recipe), dtype=main)
    model.tie_weights()
    _remove_as_before(model, recipe)
    _cast(model, state, main, dtype, file.buffer_dtypes)
    _load_strictly(model, state)
    if CONFIG_FIELD in recipe.original_config:  # removing layers above left the name of the compensation only
        setattr(model.config, CONFIG_FIELD, recipe.original_config[CONFIG_FIELD])
    keep_recipe(model, recipe)
    return model


def _state_dict(source: Path, file: RecipeFile) -> dict[str, torch.Tensor]:
    """The weights that the recipe was written for; raise if they, or the config, are others now."""
    if not file.weights:
        raise ValueError(f"{source / RECIPE_FILE} must name safetensors weights, it names none")
    for name, expected in file.files.items():
        if not (source / name).is_file():
            raise ValueError(
                f"{source} must hold {name}, written by save_pruned with its recipe (safetensors weights and config); "
                "it does not. Was the save interrupted, or the file deleted? Save the model again."
            )
        if digest(source / name) != expected:
            raise ValueError(
                f"{source / name} must be the file that save_pruned wrote with {RECIPE_FILE}; it was changed since. If "
                f"another model was saved into the folder, delete {RECIPE_FILE} and load it with from_pretrained."
            )
    others = [p.name for p in source.glob("model*.safetensors") if p.name not in file.files]
    if not file.recipe.plain and any(name == "model.safetensors" or "-of-" in name for name in others):
        raise ValueError(
            f"{source} must hold the weights of one model, it holds {others} beside those of {RECIPE_FILE}: another "
            f"model was saved into it. Delete the one or the other (and {RECIPE_FILE} with its weights {file.weights})."
        )
    state: dict[str, torch.Tensor] = {}
    for name in file.weights:
        state.update(load_file(source / name))
    return state


def _model_class(recipe: PruningRecipe, model_class: type[nn.Module] | None) -> Any:
    chosen: Any = model_class or getattr(transformers, recipe.model_class, None)
    if not isinstance(chosen, type) or not issubclass(chosen, transformers.PreTrainedModel):
        raise ValueError(
            f"{recipe.model_class} must be a model class of the installed transformers ({transformers.__version__}), "
            "it is not. Pass model_class= for a model with its own code."
        )
    return chosen


def _original_config(chosen: Any, recipe: PruningRecipe) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, CONFIG_FILE)
        path.write_text(json.dumps(recipe.original_config), encoding="utf-8")
        return chosen.config_class.from_json_file(path)


def _refuse_other_shapes(chosen: Any, recipe: PruningRecipe, state: Mapping[str, torch.Tensor], source: Path) -> None:
    """Raise before any memory is taken if the recipe asks for a much larger model than the weights are."""
    try:
        with torch.device("meta"):
            skeleton = chosen(_original_config(chosen, recipe))
    except MODEL_ERRORS as error:
        if "meta" in str(error):
            return  # an architecture that can't be built without memory
        raise ValueError(f"the config in {source / RECIPE_FILE} must build a {chosen.__name__}: {error}") from error
    positions = {old: new for new, old in enumerate(recipe.left)}
    total = sum(tensor.numel() for tensor in state.values())
    for name, tensor in skeleton.state_dict().items():
        new = rename(name, recipe.path, positions)
        saved = state.get(new) if new is not None else None
        # Some tensors hold a part per layer, also of the removed ones; those not saved are tied, or were removed.
        most = total if saved is None else saved.numel() * math.ceil(recipe.n_layers / len(recipe.left))
        if tensor.numel() > most:
            raise ValueError(
                f"the weights must fit the model of {source / RECIPE_FILE}: its config makes {name} of shape "
                f"{tuple(tensor.shape)}, saved is {None if saved is None else tuple(saved.shape)}"
            )


def _remove_as_before(model: nn.Module, recipe: PruningRecipe) -> None:
    if recipe.removed:
        remove_layers(model, recipe.removed, copy=False, stack=recipe.path, check=False)
    if recipe.sublayers:
        stack = find_sublayers(model, recipe.path, causal=False)
        named = [stack.names.index(f"{recipe.left.index(layer)}.{kind}") for layer, kind in recipe.sublayers]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CheckpointWarning)
            remove_sublayers(model, named, copy=False, stack=stack, check=False)


def _main_dtype(state: Mapping[str, torch.Tensor]) -> torch.dtype:
    """The precision of most of the weights."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in state.values():
        if tensor.is_floating_point():
            sizes[tensor.dtype] += tensor.numel()
    return sizes.most_common(1)[0][0] if sizes else torch.float32


def _cast(
    model: Any,
    state: Mapping[str, torch.Tensor],
    main: torch.dtype,
    wanted: torch.dtype | None,
    computed: Mapping[str, str],
) -> None:
    """Give every weight and buffer of the model the precision in which it was saved, or the one wanted."""
    keep: set[str] = set()
    if wanted in (torch.float16, torch.bfloat16):
        keep |= set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if wanted is torch.float16:
        keep |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    for name, tensor in [*model.state_dict(keep_vars=True).items(), *model.named_buffers()]:
        saved = state[name].dtype if name in state else getattr(torch, computed.get(name, ""), tensor.dtype)
        if not tensor.is_floating_point():
            continue
        dtype = wanted if wanted is not None and saved is main else saved
        if any(re.search(rf"(^|\.){module}($|\.)", name) for module in keep):
            dtype = torch.float32
        if name in state or name in computed:
            tensor.data = tensor.data.to(dtype)


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
    first: dict[int, str] = {}
    for name in state:
        twin = first.setdefault(own[name].data_ptr(), name)
        if twin != name and own[name].numel() and not torch.equal(state[twin], state[name]):
            raise ValueError(f"{twin} and {name} must be equal, for the config ties them; the saved ones differ")

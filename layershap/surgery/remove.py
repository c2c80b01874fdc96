"""`remove_layers`: delete decoder layers and leave a model that knows nothing of them."""

from __future__ import annotations

import copy as copying
import functools
import json
import time
import types
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from layershap.exceptions import CheckpointWarning, UnsupportedModelError
from layershap.model_io import check_is_model
from layershap.stack import LayersArgument, LayerStack, check_layer_indices, find_layers
from layershap.surgery import families, indices
from layershap.surgery.check import (
    Check,
    cache_disagreement,
    check_depth,
    check_generation,
    check_logits,
    skipped_logits,
)
from layershap.surgery.config import decoder_configs, prune_config
from layershap.surgery.reload import base_model, reload_problem
from layershap.surgery.removable import refuse_unremovable

_RECIPE_ATTRIBUTE = "_layershap_recipe"
_SLOW_FORWARD_SECONDS = 2.0


@dataclass(frozen=True)
class PruningRecipe:
    """How to build a pruned model from its original config; survives copies and further removals.

    Attributes
    ----------
    model_class : str
        Name of the transformers class.
    original_config : dict
        The config before the first removal, as in its JSON.
    path : str
        Dotted path of the layers.
    n_layers : int
        Layers before the first removal.
    removed : tuple of int
        Removed layers, in the original numbering.
    plain : bool
        Whether plain ``save_pretrained`` and ``from_pretrained`` give this model back.
    """

    model_class: str
    original_config: dict[str, Any]
    path: str
    n_layers: int
    removed: tuple[int, ...]
    plain: bool


def pruning_recipe(model: nn.Module) -> PruningRecipe | None:
    """The recipe of a model that `remove_layers` returned, None for any other model."""
    return vars(base_model(model)).get(_RECIPE_ATTRIBUTE)


@dataclass(frozen=True)
class _Site:
    """Where the layers live: their list (under `path`), its parent, and the place of each layer in the list."""

    path: str
    container: nn.ModuleList | nn.Sequential
    parent: nn.Module
    positions: tuple[int, ...]


def remove_layers(
    model: nn.Module,
    layers: Iterable[int],
    *,
    copy: bool = True,
    stack: LayerStack | LayersArgument = None,
    check: Check = "auto",
) -> nn.Module:
    """Physically remove decoder layers.

    The layers are deleted, the indices of the others renumbered, the config (layer count, per-layer lists, index lists)
    and stale attributes brought in step; then the result is checked against the masked model.

    Parameters
    ----------
    model : nn.Module
        Causal language model: any of transformers, or any module that maps token ids [B, T] to logits [B, T, V].
    layers : iterable of int
        Indices in [0, L) of the layers to remove (negative ones count from the end); at least one, and not all.
    copy : bool, default=True
        Return a deep copy that shares nothing with `model` and never holds the removed layers; else prune `model`
        itself, its config object included, and return it.
    stack : LayerStack, str or sequence of nn.Module, optional
        The layers if already known, or their dotted path; found by rule otherwise.
    check : {"auto", True, False}, default="auto"
        True: the pruned logits must be the masked ones, cached generation must agree with uncached (if it does in the
        intact model), and the config must rebuild the model. "auto": all of it below 100 M parameters; above, or if
        one short forward takes seconds, the logits and the structure only. False: nothing.

    Returns
    -------
    nn.Module
        The pruned model.

    Raises
    ------
    ValueError
        No layer or every layer named, an index out of range or named twice.
    LayerNotRemovableError
        A layer that others depend on; the message names the rule.
    UnsupportedModelError
        No list that holds the layers is found in the model.
    SurgeryCheckError
        The pruned model is not the masked model. With ``copy=False`` the model given has been changed all the same.

    Warns
    -----
    CheckpointWarning
        The config can't express the result: save it with `layershap.checkpoint.save_pruned`.

    Examples
    --------
    >>> from layershap.datasets import load_tiny_gpt2
    >>> from layershap import remove_layers
    >>> model, tokenizer = load_tiny_gpt2()
    >>> small = remove_layers(model, [3, 7])
    >>> model.config.n_layer - small.config.n_layer
    2
    """
    check_is_model(model)
    depth = check_depth(model, check)
    found = stack if isinstance(stack, LayerStack) else find_layers(model, stack, causal=False)
    removed = check_layer_indices(layers, len(found))
    if not removed:
        raise ValueError("layers must name at least one layer to remove, got an empty list")
    if len(removed) == len(found):
        raise ValueError(f"layers must leave at least one of the {len(found)} layers, got all of them")
    refuse_unremovable(model, found, removed)
    site = _locate(model, found)

    started = time.perf_counter()
    expected_BTV = skipped_logits(model, found, removed) if depth.logits else None
    if check == "auto" and time.perf_counter() - started > _SLOW_FORWARD_SECONDS:
        depth = replace(depth, full=False)
    intact = cache_disagreement(model) if depth.full else None
    pruned = _copy_without(model, [found.layers[i] for i in removed]) if copy else model
    _operate(pruned, model, site, removed)
    if expected_BTV is not None:
        check_logits(pruned, expected_BTV, removed)
    if depth.full:
        check_generation(pruned, intact, removed)
    if depth.logits:
        _check_reload(pruned, site.path, rebuild=depth.full)
    return pruned


def _locate(model: nn.Module, stack: LayerStack) -> _Site:
    for path, container in model.named_modules():
        if isinstance(container, nn.ModuleList | nn.Sequential):
            places = {id(module): place for place, module in enumerate(container)}
            if all(id(layer) in places for layer in stack.layers):
                parent = model.get_submodule(path.rpartition(".")[0])
                return _Site(path, container, parent, tuple(places[id(layer)] for layer in stack.layers))
    raise UnsupportedModelError(
        f"the {len(stack)} layers of {type(model).__name__} must lie in one nn.ModuleList or nn.Sequential to be "
        "removed, no such list holds them all. They can be skipped (skip_layers), or put into a ModuleList first."
    )


def _copy_without(model: nn.Module, layers: Sequence[nn.Module]) -> nn.Module:
    """A deep copy in which the layers are empty modules: their weights are never copied."""
    originals = {id(module) for module in model.modules()}
    empty: dict[int, Any] = {id(layer): nn.Identity() for layer in layers}
    pruned = copying.deepcopy(model, empty)
    for name, module in pruned.named_modules():
        for owner in _owners(vars(module).get("forward")):
            if owner is None or id(owner) in originals:
                raise ValueError(
                    f"{type(model).__name__} can't be copied: the forward of {name or 'the model'} was replaced by a "
                    "function that may hold on to the original. Undo that (leave skip_layers first) or pass copy=False."
                )
    return pruned


def _owners(forward: Any) -> list[Any]:
    """The modules that an instance's own forward is bound to; None stands for one that can't be known."""
    if forward is None:
        return []
    if isinstance(forward, types.MethodType):
        return [forward.__self__]
    if isinstance(forward, functools.partial):  # accelerate's hooks
        return [argument for argument in forward.args if isinstance(argument, nn.Module)] or [None]
    if isinstance(forward, types.FunctionType) and forward.__closure__:
        return [None]
    return []


def _operate(pruned: nn.Module, original: nn.Module, site: _Site, removed: Sequence[int]) -> None:
    container: Any = pruned.get_submodule(site.path)
    parent = pruned.get_submodule(site.path.rpartition(".")[0])
    gone = {site.positions[i] for i in removed}
    n_places = len(container)
    kept = [place for place in range(n_places) if place not in gone]
    layers = [container[place] for place in kept]
    configs = decoder_configs(pruned, parent, n_places)
    recipe = _extended_recipe(pruned, site.path, n_places, kept)

    families.prepare_model(parent, layers, n_places, kept)
    for place in sorted(gone, reverse=True):
        del container[place]
    indices.renumber_layers(layers, kept)
    changes: dict[str, tuple[Any, Any]] = {}
    for config in configs:
        families.spell_out_config(config, n_places)
        changes.update(prune_config(config, n_places, kept))
        families.finish_config(config, n_places, kept)
    indices.mend_stale_attributes(pruned, layers, changes, n_places, len(kept))
    families.finish_model(pruned, layers)
    families.retie_shared_blocks(pruned, parent, layers)
    positions = {old: new for new, old in enumerate(kept)}
    for holder in {id(m): m for m in (pruned, base_model(pruned))}.values():
        indices.renumber_device_map(holder, site.path, positions)
    # A PEFT wrapper and the model inside it hold the same adapter configs: once is enough.
    indices.renumber_adapters(pruned, site.path, positions)
    if recipe is not None:
        setattr(base_model(pruned), _RECIPE_ATTRIBUTE, recipe)


def _extended_recipe(model: nn.Module, path: str, n_places: int, kept: Sequence[int]) -> PruningRecipe | None:
    base = base_model(model)
    if not hasattr(base, "save_pretrained") or not hasattr(base, "config"):
        return None
    before = pruning_recipe(model)
    if before is None:
        config = json.loads(base.config.to_json_string(use_diff=True))
        inner = path.removeprefix("base_model.model.") if base is not model else path
        before = PruningRecipe(type(base).__name__, config, inner, n_places, (), plain=True)
    left = [i for i in range(before.n_layers) if i not in before.removed]
    survivors = {left[place] for place in kept}
    return replace(before, removed=tuple(i for i in range(before.n_layers) if i not in survivors))


def _check_reload(pruned: nn.Module, path: str, *, rebuild: bool) -> None:
    recipe = pruning_recipe(pruned)
    if recipe is None:
        return
    problem = reload_problem(pruned, recipe.path, rebuild=rebuild)
    setattr(base_model(pruned), _RECIPE_ATTRIBUTE, replace(recipe, plain=problem is None))
    if problem is not None:
        warnings.warn(
            f"{recipe.model_class}'s config can't express this pruned model: {problem}. A plain from_pretrained of it "
            "would give another model; save it with layershap.checkpoint.save_pruned and load it with load_pruned.",
            CheckpointWarning,
            stacklevel=3,
        )

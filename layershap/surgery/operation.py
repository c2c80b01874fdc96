"""The operation itself: a copy without the removed modules, the deletion, and everything that goes with it."""

from __future__ import annotations

import copy as copying
import functools
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from layershap.exceptions import UnsupportedModelError
from layershap.model.io import base_model
from layershap.model.stack import LayerStack
from layershap.model.sublayers import AbsentSublayer, Sublayer
from layershap.surgery import adapters, cache_slots, families, indices, quantization
from layershap.surgery.config import decoder_configs, layer_kinds, prune_config, side_of
from layershap.surgery.recipe import keep_recipe, new_recipe


@dataclass(frozen=True)
class Location:
    """Where the layers live.

    Attributes
    ----------
    path : str
        Dotted path of their list.
    n_places : int
        Length of the list, which may hold other modules beside the layers.
    positions : tuple of int
        The place of each layer in it.
    """

    path: str
    n_places: int
    positions: tuple[int, ...]

    @property
    def parent_path(self) -> str:
        """Dotted path of the module that holds the list."""
        return self.path.rpartition(".")[0]


def locate(model: nn.Module, stack: LayerStack) -> Location:
    """Find the list that holds the layers, or raise `UnsupportedModelError`."""
    for path, container in model.named_modules():
        if isinstance(container, nn.ModuleList | nn.Sequential):
            places = {id(module): place for place, module in enumerate(container)}
            if all(id(layer) in places for layer in stack.layers):
                return Location(path, len(container), tuple(places[id(layer)] for layer in stack.layers))
    raise UnsupportedModelError(
        f"the {len(stack)} layers of {type(model).__name__} must lie in one nn.ModuleList or nn.Sequential to be "
        "removed, no such list holds them all. They can be skipped (skip_layers), or put into a ModuleList first."
    )


def copy_with(model: nn.Module, replaced: Mapping[nn.Module, nn.Module], share: bool = False) -> nn.Module:
    """A deep copy in which some modules are others: the replaced ones' weights are never copied.

    With `share` no weights are: the copy's parameters and buffers are those of `model`.
    """
    originals = {id(module) for module in model.modules()}
    memo: dict[int, Any] = {id(old): new for old, new in replaced.items()}
    if share:
        memo |= {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    pruned = copying.deepcopy(model, memo)
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


def delete_layers(pruned: nn.Module, site: Location, removed: Sequence[int]) -> None:
    """Delete layers of `pruned` in place and bring everything that knows of them in step."""
    container: Any = pruned.get_submodule(site.path)
    parent = pruned.get_submodule(site.parent_path)
    gone = {site.positions[i] for i in removed}
    kept = [place for place in range(site.n_places) if place not in gone]
    layers = [container[place] for place in kept]
    configs = decoder_configs(pruned, parent, site.n_places)
    kinds = layer_kinds(pruned, site.path, site.n_places)
    recipe = new_recipe(pruned, site.path, site.n_places)

    cache_slots.restore(list(container))
    families.prepare_model(parent, layers, site.n_places, kept)
    for place in sorted(gone, reverse=True):
        del container[place]
    indices.renumber_layers(layers, kept)
    changes: dict[str, tuple[Any, Any]] = {}
    for config in configs:
        families.spell_out_config(config, site.n_places)
        changes.update(prune_config(config, site.n_places, kept, side_of(pruned, parent)))
        families.finish_config(config, site.n_places, kept)
    indices.mend_stale_attributes(pruned, layers, changes, site.n_places, kept)
    families.finish_model(pruned, layers)
    families.retie_shared_blocks(pruned, parent, layers)
    cache_slots.assign(layers, [kinds[place] for place in kept] if kinds else [])
    positions = {old: new for new, old in enumerate(kept)}
    for holder in {id(m): m for m in (pruned, base_model(pruned))}.values():
        indices.renumber_device_map(holder, site.path, positions)
    # A PEFT wrapper and the model inside it hold the same adapter configs: once is enough.
    adapters.renumber_adapters(pruned, site.path, positions)
    stale = quantization.renumber_quantization(pruned, site.path, positions)
    if recipe is not None:
        keep_recipe(pruned, replace(recipe.without_layers(kept), stale_patterns=recipe.stale_patterns + stale))


def kept_modules(pruned: nn.Module, site: Location, removed: Sequence[int]) -> list[nn.Module]:
    """The layers that `delete_layers` left, in order."""
    gone = {site.positions[i] for i in removed}
    container: Any = pruned.get_submodule(site.path)
    places = [place for place in range(site.n_places) if place not in gone]
    return [container[places.index(place)] for place in site.positions if place not in gone]


def delete_sublayers(pruned: nn.Module, site: Location, removed: Sequence[Sublayer]) -> None:
    """Put modules that hold and compute nothing in the place of sublayers of `pruned`, in place.

    Parameters
    ----------
    pruned : nn.Module
        The model.
    site : Location
        Where its layers are.
    removed : sequence of Sublayer
        Sublayers of it, or of the model that it is a copy of: only their layer, kind and parts' names count.
    """
    container: Any = pruned.get_submodule(site.path)
    recipe = new_recipe(pruned, site.path, site.n_places)
    parent = pruned.get_submodule(site.parent_path)
    families.prepare_sublayers(parent, list(container), decoder_configs(pruned, parent, site.n_places))
    for sublayer in removed:
        layer = container[site.positions[sublayer.layer]]
        for part in sublayer.parts:
            path, _, name = part.name.rpartition(".")
            setattr(layer.get_submodule(path), name, AbsentSublayer(sublayer.kind, part.form, part.adds_residual))
    cache_slots.assign(list(container), layer_kinds(pruned, site.path, site.n_places))
    adapters.renumber_adapters(pruned, site.path, {place: place for place in range(site.n_places)})
    if recipe is not None:
        places = [(site.positions[sublayer.layer], sublayer.kind) for sublayer in removed]
        keep_recipe(pruned, recipe.without_sublayers(places))

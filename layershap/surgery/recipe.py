"""How to build a pruned model from its original config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from layershap.compensation.compensating import CONFIG_FIELD
from layershap.exceptions import UnsupportedModelError
from layershap.model.io import base_model
from layershap.surgery.config import speaks_of_layers

_ATTRIBUTE = "_layershap_recipe"

NOT_OF_THE_MODEL = frozenset(
    {
        "_name_or_path",
        "name_or_path",
        "_commit_hash",
        "architectures",
        "transformers_version",
        "transformers_weights",
        "auto_map",
        "custom_pipelines",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "experts_implementation",
        "_experts_implementation",
        "_experts_implementation_internal",
    }
)
"""Fields of a config that say where a model came from, which code or which kernels run it, not what it is."""


@dataclass(frozen=True)
class PruningRecipe:
    """How to build a pruned model from its original config; survives copies and further removals.

    Attributes
    ----------
    model_class : str
        Name of the transformers class.
    original_config : dict
        The config before the first removal, as in its JSON, with what was changed since apart from the removals.
    path : str
        Dotted path of the layers.
    n_layers : int
        Layers before the first removal.
    removed : tuple of int
        Removed layers, in the original numbering.
    sublayers : tuple of (int, str)
        Removed sublayers of layers that stay: layer in the original numbering, and kind.
    plain : bool
        Whether plain ``save_pretrained`` and ``from_pretrained`` give this model back.
    pruned_config : dict
        The config as the last removal left it: what differs from it was changed by others.
    conflicts : tuple of str
        Fields about layers that were changed since, which `original_config` can't take up.
    stale_patterns : tuple of str
        Patterns of the quantisation config that name other layers since a removal.
    """

    model_class: str
    original_config: dict[str, Any]
    path: str
    n_layers: int
    removed: tuple[int, ...]
    plain: bool
    sublayers: tuple[tuple[int, str], ...] = ()
    pruned_config: dict[str, Any] | None = None
    conflicts: tuple[str, ...] = ()
    stale_patterns: tuple[str, ...] = ()

    @property
    def left(self) -> list[int]:
        """The layers that stay, in the original numbering."""
        return [i for i in range(self.n_layers) if i not in self.removed]

    def without_layers(self, kept: Sequence[int]) -> PruningRecipe:
        """The recipe after a removal that leaves the `kept` ones of the layers left."""
        survivors = {self.left[place] for place in kept}
        return replace(
            self,
            removed=tuple(i for i in range(self.n_layers) if i not in survivors),
            sublayers=tuple(entry for entry in self.sublayers if entry[0] in survivors),
        )

    def without_sublayers(self, removed: Sequence[tuple[int, str]]) -> PruningRecipe:
        """The recipe after a removal of sublayers: (layer in the present numbering, kind)."""
        named = {(self.left[layer], kind) for layer, kind in removed}
        return replace(self, sublayers=tuple(sorted({*self.sublayers, *named})), plain=False)


def pruning_recipe(model: nn.Module) -> PruningRecipe | None:
    """The recipe of a model that `remove_layers` returned, None for any other model."""
    return vars(base_model(model)).get(_ATTRIBUTE)


def keep_recipe(model: nn.Module, recipe: PruningRecipe) -> None:
    """Make `recipe` the one of `model`, whose config is now as the removal left it.

    What a compensation did stands in the config alone: `current_recipe` takes it from there.
    """
    base = base_model(model)
    original, pruned = map(_uncompensated, (recipe.original_config, config_fields(base)))
    setattr(base, _ATTRIBUTE, replace(recipe, original_config=original, pruned_config=pruned))


def new_recipe(model: nn.Module, path: str, n_layers: int) -> PruningRecipe | None:
    """The recipe that a model has, or that of a whole one; None for a model without a transformers config.

    A recipe is about one stack. A model that its config describes counts as whole where another stack is pruned next.

    Raises
    ------
    UnsupportedModelError
        Another stack was pruned before, and the config doesn't describe what is left of it.
    """
    base = base_model(model)
    if not hasattr(base, "save_pretrained") or not hasattr(base, "config"):
        return None
    inner = path.removeprefix("base_model.model.") if base is not model else path
    found = current_recipe(model)
    if found is not None and found.path != inner and not found.plain:
        raise UnsupportedModelError(
            f"a recipe is about one list of layers: {found.path} of this {type(base).__name__} was pruned before, "
            f"which its config can't express, so {inner} can't be pruned now. Prune {inner} first"
        )
    if found is None or found.path != inner:
        return PruningRecipe(type(base).__name__, config_fields(base), inner, n_layers, (), plain=True)
    return found


def current_recipe(model: nn.Module) -> PruningRecipe | None:
    """The recipe of a model, with what was changed in its config since the last removal."""
    recipe = pruning_recipe(model)
    if recipe is None or recipe.pruned_config is None:
        return recipe
    now = config_fields(base_model(model))
    merged, conflicts = _carried(recipe.original_config, recipe.pruned_config, now)
    return replace(recipe, original_config=merged, pruned_config=now, conflicts=tuple({*recipe.conflicts, *conflicts}))


def config_fields(base: Any) -> dict[str, Any]:
    """A model's config as in its JSON, without the fields that do not say what the model is."""
    return _without(json.loads(base.config.to_json_string(use_diff=True)))


def _without(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without(value) if isinstance(value, dict) else value
        for name, value in fields.items()
        if name not in NOT_OF_THE_MODEL
    }


def _uncompensated(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != CONFIG_FIELD}


def _carried(
    original: dict[str, Any], before: dict[str, Any], after: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """`original` with the changes from `before` to `after`, and the fields about layers where that can't be."""
    merged, conflicts = dict(original), []
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict) and isinstance(original.get(name), dict):
            merged[name], inner = _carried(original[name], old, new)
            conflicts += [f"{name}.{field}" for field in inner]
        elif original.get(name) != old or (isinstance(new, list) and speaks_of_layers(name)):
            conflicts.append(name)
        elif name in after:
            merged[name] = new
        else:
            merged.pop(name, None)
    return merged, conflicts

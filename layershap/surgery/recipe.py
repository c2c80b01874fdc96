"""How to build a pruned model from its original config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from layershap.surgery.reload import base_model

_ATTRIBUTE = "_layershap_recipe"


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
    sublayers : tuple of (int, str)
        Removed sublayers of layers that stay: layer in the original numbering, and kind.
    plain : bool
        Whether plain ``save_pretrained`` and ``from_pretrained`` give this model back.
    """

    model_class: str
    original_config: dict[str, Any]
    path: str
    n_layers: int
    removed: tuple[int, ...]
    plain: bool
    sublayers: tuple[tuple[int, str], ...] = ()

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
    """Make `recipe` the one of `model`."""
    setattr(base_model(model), _ATTRIBUTE, recipe)


def new_recipe(model: nn.Module, path: str, n_layers: int) -> PruningRecipe | None:
    """The recipe that a model has, or that of a whole one; None for a model without a transformers config."""
    base = base_model(model)
    if not hasattr(base, "save_pretrained") or not hasattr(base, "config"):
        return None
    config = json.loads(base.config.to_json_string(use_diff=True))
    inner = path.removeprefix("base_model.model.") if base is not model else path
    return pruning_recipe(model) or PruningRecipe(type(base).__name__, config, inner, n_layers, (), plain=True)

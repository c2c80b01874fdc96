"""A model as games see it: its players, found once, which of them can't go, and what its scores depend on."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from layershap.fingerprint import model_fields
from layershap.model.split import find_players
from layershap.model.stack import LayerStack, check_layer_indices
from layershap.model.sublayers import Granularity, Players, PlayersArgument
from layershap.protocols import FloatArray, MaskArray, Utility
from layershap.surgery import keep_one_of, unremovable_players
from layershap.tasks.data import UtilityLike


@dataclass(frozen=True)
class GameModel:
    """A model with its players. Finding them runs it once; everything else is found when first asked for, and kept.

    Attributes
    ----------
    model : nn.Module
        Causal language model; only read.
    players : LayerStack or SublayerStack
        Its layers, or their sublayers.
    """

    model: nn.Module
    players: Players

    @classmethod
    def of(
        cls,
        model: nn.Module,
        layers: PlayersArgument = None,
        granularity: Granularity = "layer",
        *,
        utility: UtilityLike | None = None,
    ) -> GameModel:
        """Find the players (`layershap.model.split.find_players`).

        A utility that is a plain callable may score what it likes, so nothing says that the model must be causal.
        """
        causal = utility is None or isinstance(utility, Utility)
        return cls(model, find_players(model, layers, granularity, causal=causal))

    def scaled(self, scales: FloatArray | None) -> GameModel:
        """The model whose skipped layers multiply the states by `scales` [L]; itself if there are none."""
        if scales is None:
            return self
        if not isinstance(self.players, LayerStack):
            raise ValueError("only whole layers can be skipped with a scale, these players are sublayers")
        return GameModel(self.model, replace(self.players, skip_scales=tuple(map(float, scales))))

    def in_precision(self, dtype: str) -> GameModel:
        """The model while it computes in another precision (`dtype`, as torch writes it); nothing is found anew.

        Its fingerprint is that of the weights as they are kept, with the precision that they are computed in.
        """
        found = copy(self)
        vars(found)["fingerprint"] = {**self.fingerprint, "dtype": dtype}
        return found

    @cached_property
    def unremovable(self) -> dict[int, str]:
        """Players that can't be removed alone, with the reason."""
        return unremovable_players(self.model, self.players)

    @cached_property
    def keep_one_of(self) -> tuple[tuple[int, ...], ...]:
        """Groups of players of which one must stay (`layershap.surgery.keep_one_of`)."""
        return keep_one_of(self.model, self.players)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What scores depend on of the model itself; reads all weights."""
        return model_fields(self.model, self.players)

    def protected(self, protect: Sequence[int]) -> dict[int, str]:
        """Players that must stay, with the reason: those that can't go, and those named."""
        named = check_layer_indices(protect, len(self.players))
        return {**self.unremovable, **dict.fromkeys(named, "named in protect")}

    def removable(self, protect: Sequence[int]) -> MaskArray:
        """Which players may be removed [L]."""
        found = np.ones(len(self.players), dtype=bool)
        found[list(self.protected(protect))] = False
        return found

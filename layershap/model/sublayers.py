"""Sublayers as players: the token mixer (attention, mamba, ...) and the feed-forward part of each decoder layer.

A sublayer is skipped by letting its modules contribute nothing to the residual stream: they return zeros (or, where a
module adds the residual itself, that residual) without computing anything.

Shapes: B rows, T tokens, D hidden size, L layers, P players.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from layershap.model.calls import CallForm
from layershap.model.patching import patched
from layershap.model.stack import LayersArgument, LayerStack, check_layer_indices

SublayerKind: TypeAlias = Literal["mixer", "feed_forward", "layer"]
Granularity: TypeAlias = Literal["layer", "sublayer"]


class AbsentSublayer(nn.Module):
    """Stands where a module of a sublayer was removed: holds no weights, computes nothing, returns what `Part.nothing`
    does.
    """

    def __init__(self, kind: SublayerKind, form: CallForm, adds_residual: bool) -> None:
        super().__init__()
        self.kind = kind
        self.form = form
        self.adds_residual = adds_residual

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Contribute nothing to the residual stream."""
        return _nothing(self.form, self.adds_residual, args, kwargs)

    def extra_repr(self) -> str:
        """Shown in the model's repr."""
        return self.kind


def _nothing(form: CallForm, adds_residual: bool, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    source = form.hidden_from(args, kwargs)
    return form.wrap(source if adds_residual else torch.zeros_like(source), args, kwargs)


@dataclass(frozen=True)
class Part:
    """A module of a sublayer.

    Attributes
    ----------
    name : str
        Dotted name of the module inside the layer.
    module : nn.Module
        The module.
    form : CallForm
        How the layer calls it; the argument named by ``form.hidden`` has the shape of what it gives back.
    adds_residual : bool
        Whether the module adds its residual argument itself (bloom, mpt), and so must give that back when skipped.
    """

    name: str
    module: nn.Module
    form: CallForm
    adds_residual: bool

    def nothing(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returns when it contributes nothing to the residual stream."""
        return _nothing(self.form, self.adds_residual, args, kwargs)


@dataclass(frozen=True)
class Sublayer:
    """One player: a sublayer, or a layer that has no two of them.

    Attributes
    ----------
    layer : int
        Index of its layer.
    kind : {"mixer", "feed_forward", "layer"}
        "layer" where the layer has one sublayer only, or can't be split.
    parts : tuple of Part
        Modules of the sublayer; none for "layer".
    """

    layer: int
    kind: SublayerKind
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """Layer index and kind, "3.mixer" say."""
        return f"{self.layer}.{self.kind}"


@dataclass(frozen=True)
class SublayerStack:
    """The sublayers of one model as players, in the order in which they run: 0.mixer, 0.feed_forward, 1.mixer, ...

    Attributes
    ----------
    stack : LayerStack
        The layers.
    sublayers : tuple of Sublayer
        The P players.
    """

    stack: LayerStack
    sublayers: tuple[Sublayer, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.sublayers)

    @property
    def path(self) -> str:
        """Dotted path of the layer list."""
        return self.stack.path

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """The L layers."""
        return self.stack.layers

    @property
    def forms(self) -> tuple[CallForm, ...]:
        """How the parent calls each layer."""
        return self.stack.forms

    @property
    def skip_scales(self) -> tuple[float, ...] | None:
        """None: what a skipped sublayer would have to multiply the states by isn't known."""
        return None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the players, "3.mixer" say."""
        return tuple(sublayer.name for sublayer in self.sublayers)

    def layer_of(self, player: int) -> int:
        """Index of the layer that a player belongs to."""
        return self.sublayers[player].layer

    def kind_of(self, player: int) -> str:
        """What a player is: "mixer", "feed_forward" or "layer"."""
        return self.sublayers[player].kind

    def players_of(self, layers: Iterable[int]) -> list[int]:
        """Indices of the players that belong to some layers."""
        chosen = set(layers)
        return [p for p, sublayer in enumerate(self.sublayers) if sublayer.layer in chosen]

    def whole_layers(self, players: Iterable[int]) -> list[int]:
        """Layers of which every player is among `players`."""
        chosen = set(players)
        return [i for i in range(len(self.layers)) if set(self.players_of([i])) <= chosen]

    @contextmanager
    def skip(self, players: Iterable[int]) -> Iterator[None]:
        """Run the model without these players; a layer that loses all of its own is not run at all."""
        skipped = check_layer_indices(players, len(self))
        whole = self.whole_layers(skipped)
        parts = [p for i in skipped if self.layer_of(i) not in whole for p in self.sublayers[i].parts]
        with self.stack.skip(whole), patched([part.module for part in parts], lambda i, _: parts[i].nothing):
            yield

    @contextmanager
    def only(self, player: int) -> Iterator[None]:
        """Let the player's layer compute this player only."""
        others = [i for i in self.players_of([self.layer_of(player)]) if i != player]
        parts = [part for i in others for part in self.sublayers[i].parts]
        with patched([part.module for part in parts], lambda i, _: parts[i].nothing):
            yield


Players: TypeAlias = LayerStack | SublayerStack
"""What a game's masks are about: both know their layers, `skip` some players, and run one `alone` in its layer."""

PlayersArgument: TypeAlias = LayersArgument | SublayerStack
"""Where the layers are, or the players as they were found before."""

"""Which layers can't be removed, alone or together: the families' rules, and their reasons.

Sources: the modeling files of transformers 5.23, measured in tests/architectures.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from torch import nn

from layershap.exceptions import LayerNotRemovableError
from layershap.model.io import base_model, other_inputs
from layershap.model.stack import LayerStack
from layershap.model.sublayers import Players, SublayerStack
from layershap.surgery.cache_slots import RECURRENT_KINDS, lacks_mixer
from layershap.surgery.config import all_configs, decoder_model_type, layer_kinds

# Kinds of layers, as configs name them, that hold no growing key-value cache.
_NO_KEY_VALUE_CACHE = RECURRENT_KINDS | {"moe", "mlp"}


def unremovable_layers(model: nn.Module, stack: LayerStack) -> dict[int, str]:
    """Layers that must stay so that any subset of the others can be removed.

    Parameters
    ----------
    model : nn.Module
        Causal language model.
    stack : LayerStack
        Its layers, from `layershap.model.stack.find_layers`.

    Returns
    -------
    dict of int to str
        Layer index -> the reason, naming the family's rule. Empty for most architectures.

    Notes
    -----
    One rule is about sets and has no layer to name: a hybrid must keep one attention layer, whichever (see
    `keep_one_of`). An only attention layer is named here.
    """
    reasons: dict[int, str] = {}
    last_reuse = max((i for i, layer in enumerate(stack.layers) if _reuses_keys_and_values(layer)), default=-1)
    for index, layer in enumerate(stack.layers):
        attention = getattr(layer, "self_attn", None)
        # Without a layer that reuses them they are stored for another model only, which drafts tokens for this one.
        if getattr(attention, "store_full_length_kv", False) and index < last_reuse:
            reasons[index] = (
                "its keys and values are the ones that the layers with shared KV reuse "
                "(gemma3n, gemma4: the last unshared layer of each attention type)"
            )
        elif getattr(layer, "is_block_boundary", False):
            reasons[index] = "it opens a block of attention residuals that later layers read (inkling2: block boundary)"
    shared_indexers = [i for i, layer in enumerate(stack.layers) if _shares_indexer(layer)]
    if shared_indexers:
        reasons[0] = (
            f"layers {shared_indexers} reuse the token choice of an earlier full indexer "
            "(glm_moe_dsa, hy_v4: a 'full' indexer must precede a 'shared' one)"
        )
    if _owns_position_bias(stack):
        reasons[0] = "it holds the relative position bias that all layers use (t5)"
    model_type = decoder_model_type(model)
    if model_type == "rwkv":
        reasons[0] = "it owns the norm of the embeddings (rwkv: pre_ln)"
    if model_type == "minimax" and _cannot_be_first(model, stack):
        reasons.setdefault(0, "a linear-attention layer must not become the first (minimax: the cache's length)")
    if model_type == "mllama":
        for index in _cannot_be_first(model, stack):
            reasons[index] = "text without images does not call it, so its worth can't be measured (mllama)"
    if model_type == "mllama" and _cannot_be_first(model, stack):
        reasons.setdefault(0, "a cross-attention layer must not become the first (mllama: the cache's length)")
    for index in range(_layers_fed_by_place(model, stack)):
        reasons.setdefault(
            index,
            "image features are added after layers 0, 1, ... by their place, so no earlier layer may go (deepstack)",
        )
    for group in keep_one_of(model, stack):
        if len(group) == 1:
            reasons.setdefault(group[0], "it is the only attention layer, which holds the cache's length (hybrids)")
    return reasons


def _cannot_be_first(model: nn.Module, stack: LayerStack) -> list[int]:
    """Layers that hold no key-value cache, in families that read the cache's length from layer 0."""
    if decoder_model_type(model) == "minimax":
        linear = [i for i, layer in enumerate(stack.layers) if getattr(layer, "block_type", "") == "linear_attention"]
    elif decoder_model_type(model) == "mllama":
        linear = [i for i, layer in enumerate(stack.layers) if hasattr(layer, "cross_attn")]
    else:
        return []
    return [] if 0 in linear else linear


def _layers_fed_by_place(model: nn.Module, stack: LayerStack) -> int:
    """How many of the first layers the parent feeds image features into by their place in its loop.

    Qwen3-VL and its kin: one layer per layer of the vision tower that is tapped; Granite Vision: those that the config
    names. All, where the config names none.
    """
    base = base_model(model)
    inner = stack.path.removeprefix("base_model.model.") if base is not model else stack.path
    parent = base.get_submodule(inner.rpartition(".")[0])
    fed = any("deepstack" in name for name in inspect.signature(type(parent).forward).parameters)
    if not fed or not other_inputs(base):
        return 0
    counts = []
    for config in all_configs(base):
        fields = vars(config)
        counts.append(len(fields.get("deepstack_visual_indexes") or ()))
        targets = [layer for _, layer in fields.get("deepstack_layer_map") or ()]
        counts += [layer + 1 for layer in [*targets, *(fields.get("spatial_target_layers") or ())]]
    return min(max(counts, default=0) or len(stack), len(stack))


def _owns_position_bias(stack: LayerStack) -> bool:
    """Whether the first layer alone has a table of relative positions, and hands on what it reads there."""
    first, *others = [{name for name, _ in layer.named_modules()} for layer in stack.layers]
    tables = {name for name in first if name.endswith("relative_attention_bias")}
    return bool(tables) and not any(tables & names for names in others)


def _reuses_keys_and_values(layer: nn.Module) -> bool:
    attention = getattr(layer, "self_attn", None)
    return bool(getattr(attention, "is_kv_shared_layer", False))


def _shares_indexer(layer: nn.Module) -> bool:
    attention = getattr(layer, "self_attn", None)
    return bool(getattr(attention, "skip_topk", False))


def unremovable_players(model: nn.Module, players: Players) -> dict[int, str]:
    """As `unremovable_layers`; the sublayers of a layer that must stay must all stay."""
    if not isinstance(players, SublayerStack):
        return unremovable_layers(model, players)
    layers = unremovable_layers(model, players.stack)
    return {player: layers[players.layer_of(player)] for player in players.players_of(layers)}


def keep_one_of(model: nn.Module, players: Players) -> tuple[tuple[int, ...], ...]:
    """Groups of players of which one must stay, whichever.

    A hybrid keeps an attention layer; a model that loses sublayers keeps a mixer of each kind. Generation reads the
    cache's length from them.
    """
    kinds = layer_kinds(model, players.path, len(players.layers))
    if not isinstance(players, SublayerStack):
        attention = tuple(i for i, kind in enumerate(kinds) if kind not in _NO_KEY_VALUE_CACHE)
        return (attention,) if 0 < len(attention) < len(kinds) else ()
    groups: dict[str, list[int]] = {}
    for player, sublayer in enumerate(players.sublayers):
        layer = players.layers[sublayer.layer]
        if sublayer.kind == "mixer" or (sublayer.kind == "layer" and not lacks_mixer(layer)):
            groups.setdefault(kinds[sublayer.layer] if kinds else "", []).append(player)
    return tuple(tuple(group) for kind, group in groups.items() if kind not in ("moe", "mlp"))


def refuse_unremovable(model: nn.Module, players: Players, removed: Sequence[int]) -> None:
    """Raise `LayerNotRemovableError` if this very set of players can't be removed."""
    if isinstance(players, SublayerStack):
        _refuse_sublayers(model, players, removed)
    else:
        _refuse_layers(model, players, removed)


def _refuse_sublayers(model: nn.Module, players: SublayerStack, removed: Sequence[int]) -> None:
    reasons = unremovable_players(model, players)
    named = [i for i in removed if i in reasons]
    if named:
        raise LayerNotRemovableError(
            f"sublayers {[players.names[i] for i in named]} of {type(model).__name__} can't be removed: "
            f"{reasons[named[0]]}"
        )
    gone = set(players.whole_layers(removed))
    for group in keep_one_of(model, players):
        staying = [i for i in group if players.layer_of(i) not in gone]
        if staying and set(staying) <= set(removed):
            raise LayerNotRemovableError(
                f"{type(model).__name__} must keep at least one of the mixers {[players.names[i] for i in group]}, all "
                "would be removed: generation reads the cache's length from one of them."
            )
    if gone:
        _refuse_layers(model, players.stack, sorted(gone))


def _refuse_layers(model: nn.Module, stack: LayerStack, removed: Sequence[int]) -> None:
    """Raise `LayerNotRemovableError` if this very set of layers can't be removed.

    Less strict than `unremovable_layers`: a first layer may go where the new first one can take its part.
    """
    kept = [i for i in range(len(stack)) if i not in set(removed)]
    reasons = unremovable_layers(model, stack)
    if decoder_model_type(model) == "mllama":  # can be removed, only not valued
        reasons = {index: reason for index, reason in reasons.items() if index == 0}
    no_cache = _cannot_be_first(model, stack)
    if no_cache and kept[0] not in no_cache:
        reasons.pop(0, None)
    sharers = [i for i in kept if _shares_indexer(stack.layers[i])]
    if any(_shares_indexer(layer) for layer in stack.layers) and (not sharers or kept[0] not in sharers):
        reasons.pop(0, None)
    named = {index: reasons[index] for index in removed if index in reasons}
    if no_cache and kept[0] in no_cache and 0 not in named:
        named[0] = reasons[0]
    for attention in keep_one_of(model, stack):
        if set(attention) <= set(removed):
            raise LayerNotRemovableError(
                f"{type(model).__name__} must keep at least one of its attention layers {list(attention)}, all would "
                f"be removed by layers={list(removed)}: generation reads the cache's length from an attention layer "
                "(hybrid models)."
            )
    if named:
        detail = "; ".join(f"layer {index}: {reason}" for index, reason in named.items())
        raise LayerNotRemovableError(
            f"layers {list(named)} of {type(model).__name__} can't be removed, {detail}. "
            "layershap.surgery.unremovable_layers lists all such layers; leave them out of layers=."
        )

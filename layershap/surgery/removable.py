"""Which layers can't be removed, alone or together: the families' rules, and their reasons.

Sources: the modeling files of transformers 5.23, measured in tests/architectures.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from layershap.exceptions import LayerNotRemovableError
from layershap.stack import LayerStack
from layershap.surgery.config import decoder_model_type, layer_kinds

# Kinds of layers, as configs name them, whose state is not a growing key-value cache.
_NO_KEY_VALUE_CACHE = {"linear_attention", "mamba", "conv", "recurrent", "moe", "mlp"}


def unremovable_layers(model: nn.Module, stack: LayerStack) -> dict[int, str]:
    """Layers that must stay so that any subset of the others can be removed.

    Parameters
    ----------
    model : nn.Module
        Causal language model.
    stack : LayerStack
        Its layers, from `layershap.stack.find_layers`.

    Returns
    -------
    dict of int to str
        Layer index -> the reason, naming the family's rule. Empty for most architectures.

    Notes
    -----
    One rule is about sets and has no layer to name: a hybrid must keep one attention layer, whichever (see
    `refuse_unremovable`).
    """
    reasons: dict[int, str] = {}
    for index, layer in enumerate(stack.layers):
        attention = getattr(layer, "self_attn", None)
        if getattr(attention, "store_full_length_kv", False):
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


def _shares_indexer(layer: nn.Module) -> bool:
    attention = getattr(layer, "self_attn", None)
    return bool(getattr(attention, "skip_topk", False))


def refuse_unremovable(model: nn.Module, stack: LayerStack, removed: Sequence[int]) -> None:
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
    kinds = layer_kinds(model, stack)
    if kinds and not set(kinds) <= _NO_KEY_VALUE_CACHE and {kinds[i] for i in kept} <= _NO_KEY_VALUE_CACHE:
        attention = [i for i, kind in enumerate(kinds) if kind not in _NO_KEY_VALUE_CACHE]
        raise LayerNotRemovableError(
            f"{type(model).__name__} must keep at least one of its attention layers {attention}, all would be removed "
            f"by layers={list(removed)}: generation reads the cache's length from an attention layer (hybrid models)."
        )
    if named:
        detail = "; ".join(f"layer {index}: {reason}" for index, reason in named.items())
        raise LayerNotRemovableError(
            f"layers {list(named)} of {type(model).__name__} can't be removed, {detail}. "
            "layershap.surgery.unremovable_layers lists all such layers; leave them out of layers=."
        )

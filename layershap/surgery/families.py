"""What only the architecture knows: the one table of family rules.

A rule is keyed by ``config.model_type`` or by a field that a family's config has. Everything else in the package is
generic. Sources: the modeling files of transformers 5.23, measured in tests/architectures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from layershap.exceptions import LayerNotRemovableError
from layershap.stack import LayerStack

_FULL_ATTENTION = "full_attention"


# ---------------------------------------------------------------------------------------- layers that can't be removed


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
    model_type = _model_type(model)
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
    if _model_type(model) == "minimax":
        linear = [i for i, layer in enumerate(stack.layers) if getattr(layer, "block_type", "") == "linear_attention"]
    elif _model_type(model) == "mllama":
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
    if _model_type(model) == "mllama":  # can be removed, only not valued
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
    if named:
        detail = "; ".join(f"layer {index}: {reason}" for index, reason in named.items())
        raise LayerNotRemovableError(
            f"layers {list(named)} of {type(model).__name__} can't be removed, {detail}. "
            "layershap.surgery.unremovable_layers lists all such layers; leave them out of layers=."
        )


def _model_type(model: nn.Module) -> str:
    """The decoder's own model type: a composite model (mllama) asks its text part."""
    config = getattr(model, "config", None)
    kind = str(getattr(config, "model_type", ""))
    return {"mllama_text_model": "mllama"}.get(kind, kind)


# -------------------------------------------------------------------------------------- configs: before the generic rules


def spell_out_config(config: Any, n_layers: int) -> None:
    """Write cyclic patterns as explicit lists, which the generic rules can slice."""
    if getattr(config, "model_type", "") == "recurrent_gemma":
        cycle = list(config.block_types)
        config.block_types = [cycle[i % len(cycle)] for i in range(n_layers)]


# --------------------------------------------------------------------------------------- configs: after the generic rules


def finish_config(config: Any, n_layers: int, kept: Sequence[int]) -> None:
    """Mend the fields of `config` that tie layers to their indices by a formula."""
    rule = _CONFIG_RULES.get(getattr(config, "model_type", ""))
    if rule is not None:
        rule(config, n_layers, kept)


def _gpt_neo(config: Any, n_layers: int, kept: Sequence[int]) -> None:
    config.attention_types = [[[kind], 1] for kind in config.attention_layers]


def _minicpm3(config: Any, n_layers: int, kept: Sequence[int]) -> None:
    # Each residual branch is multiplied by scale_depth / sqrt(number of layers).
    config.scale_depth *= math.sqrt(len(kept) / n_layers)


def _jamba(config: Any, n_layers: int, kept: Sequence[int]) -> None:
    for kind in ("attn", "expert"):
        period, offset = getattr(config, f"{kind}_layer_period"), getattr(config, f"{kind}_layer_offset")
        chosen = [new for new, old in enumerate(kept) if old % period == offset]
        solved = _solve_period(chosen, len(kept))
        if solved is not None:
            setattr(config, f"{kind}_layer_period", solved[0])
            setattr(config, f"{kind}_layer_offset", solved[1])


def _solve_period(chosen: list[int], n: int) -> tuple[int, int] | None:
    """A period and offset < period such that the layers ``i % period == offset`` among n are the chosen ones."""
    for period in range(1, n + 2):
        for offset in range(period):
            if [i for i in range(n) if i % period == offset] == chosen:
                return period, offset
    return None


def _ernie_moe(config: Any, n_layers: int, kept: Sequence[int]) -> None:
    def sparse(index: int, start: int, end: int, interval: int) -> bool:
        return (index + 1) % interval == 0 and start <= index <= end

    end = config.moe_layer_end_index
    old = (config.moe_layer_start_index, n_layers - 1 if end in (None, -1) else end, config.moe_layer_interval)
    chosen = [new for new, index in enumerate(kept) if sparse(index, *old)]
    if not chosen:
        return  # no range is empty in this config's terms: such a model needs a recipe
    for interval in range(1, len(kept) + 1):
        if [i for i in range(len(kept)) if sparse(i, chosen[0], chosen[-1], interval)] == chosen:
            config.moe_layer_start_index, config.moe_layer_end_index = chosen[0], chosen[-1]
            config.moe_layer_interval = interval
            return


def _rwkv(config: Any, n_layers: int, kept: Sequence[int]) -> None:
    # The halving of the state goes by loop position and the weights' by index; `prepare_model` has undone both.
    config.rescale_every = 0


_CONFIG_RULES: dict[str, Callable[[Any, int, Sequence[int]], None]] = {
    "gpt_neo": _gpt_neo,
    "minicpm3": _minicpm3,
    "jamba": _jamba,
    "ernie4_5_moe": _ernie_moe,
    "rwkv": _rwkv,
}


# ------------------------------------------------------------------------------------------------ weights and attributes


def prepare_model(parent: nn.Module, layers: Sequence[nn.Module], n_layers: int, kept: Sequence[int]) -> None:
    """Mend, before the deletion, what the decoder `parent` holds per layer outside its `layers` (the kept ones)."""
    if getattr(parent, "layers_are_rescaled", False):
        _undo_rescale(parent, layers, kept)
    for name in ("embed_tokens_per_layer", "per_layer_model_projection"):
        table = getattr(parent, name, None)
        if isinstance(table, nn.Module):
            _slice_packed_layers(table, n_layers, kept)
    if hasattr(parent, "first_kv_shared_layer_idx"):
        first: Any = parent.first_kv_shared_layer_idx
        parent.first_kv_shared_layer_idx = sum(i < first for i in kept)
    for block in layers:
        for module in block.modules():
            if hasattr(module, "layer_dic"):
                _slice_shared_adapters(module, kept)


def _undo_rescale(parent: Any, layers: Sequence[Any], kept: Sequence[int]) -> None:
    every = parent.config.rescale_every
    with torch.no_grad():
        for old, block in zip(kept, layers, strict=True):
            block.attention.output.weight.mul_(2 ** (old // every))
            block.feed_forward.value.weight.mul_(2 ** (old // every))
    # With rescale_every = 0 there is nothing to undo or redo: the flag only says that the model is in inference form.


def _slice_packed_layers(table: Any, n_layers: int, kept: Sequence[int]) -> None:
    """Keep the kept layers' part of an embedding [V, L * P] or a projection [L * P, D] (gemma3n, gemma4)."""
    weight = table.weight
    dim = 1 if isinstance(table, nn.Embedding) else 0
    if weight.device.type == "meta":
        raise LayerNotRemovableError(
            f"{type(table).__name__} packs one part per layer and is offloaded, so it can't be cut to the kept layers. "
            "Remove the layers before dispatching the model."
        )
    sliced = weight.detach().unflatten(dim, (n_layers, -1)).index_select(dim, _index(kept, weight)).flatten(dim, dim + 1)
    table.weight = nn.Parameter(sliced, requires_grad=weight.requires_grad)
    if isinstance(table, nn.Embedding):
        table.embedding_dim = sliced.shape[1]
    else:
        table.out_features = sliced.shape[0]


def _index(kept: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(list(kept), device=like.device)


def _slice_shared_adapters(module: Any, kept: Sequence[int]) -> None:
    """Keep the adapters of the kept hybrid layers in a block that all hybrid layers share (zamba2)."""
    place = {old: new for new, old in enumerate(kept)}
    slots = [slot for layer, slot in sorted(module.layer_dic.items()) if layer in place]
    for name, child in list(module.named_children()):
        if name.endswith("_adapter_list"):
            setattr(module, name, nn.ModuleList(child[slot] for slot in slots if slot < len(child)))
    hybrids = sorted(place[layer] for layer in module.layer_dic if layer in place)
    module.layer_dic = {layer: slot for slot, layer in enumerate(hybrids)}
    module.num_fwd_mem_blocks = len(hybrids)


def finish_model(model: nn.Module, layers: Sequence[Any]) -> None:
    """Mend, after the deletion, what being the first or the last layer makes of a block."""
    if _model_type(model) == "zaya":
        gate = getattr(layers[0].mlp, "gate", None)
        if gate is not None and gate.use_eda:
            # The first layer has no earlier router state to mix in.
            gate.use_eda = False
            del gate.router_states_scale
    if _model_type(model) == "gpt_neox_japanese":
        attention = layers[-1].attention
        if attention.dense_bias is None:
            # Only the last layer has this bias; a zero one keeps the mathematics and fits the config.
            attention.use_bias = True
            attention.dense_bias = nn.Parameter(torch.zeros_like(layers[-1].input_layernorm.bias))


def retie_shared_blocks(model: nn.Module, parent: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Name anew which kept layer holds the weights that others share (zamba, zamba2)."""
    suffix = "shared_transf" if _model_type(model) == "zamba" else "shared_transformer"
    if not any(hasattr(layer, suffix) for layer in layers):
        return
    owners: dict[int, int] = {}
    pairs: dict[int, int] = {}
    for index, layer in enumerate(layers):
        block = getattr(layer, suffix, None)
        if block is not None:
            first = id(next(block.parameters()))
            if first in owners:
                pairs[index] = owners[first]
            owners.setdefault(first, index)
    keys = {f"layers.{index}.{suffix}": f"layers.{owner}.{suffix}" for index, owner in pairs.items()}
    tying: Any = parent
    tying._tied_weights_keys = keys
    for module in model.modules():
        if hasattr(module, "all_tied_weights_keys"):
            expanding: Any = module
            expanding.all_tied_weights_keys = expanding.get_expanded_tied_weights_keys(all_submodels=True)

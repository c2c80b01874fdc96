"""What only the architecture knows: the one table of family rules for mending (what it forbids is in ``removable``).

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
from layershap.surgery.config import decoder_model_type

# ---- configs: before the generic rules


def spell_out_config(config: Any, n_layers: int) -> None:
    """Write cyclic patterns as explicit lists, which the generic rules can slice."""
    if getattr(config, "model_type", "") == "recurrent_gemma":
        cycle = list(config.block_types)
        config.block_types = [cycle[i % len(cycle)] for i in range(n_layers)]


# ---- configs: after the generic rules


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
        solved = solve_period(chosen, len(kept))
        if solved is not None:
            setattr(config, f"{kind}_layer_period", solved[0])
            setattr(config, f"{kind}_layer_offset", solved[1])


def solve_period(chosen: list[int], n: int) -> tuple[int, int] | None:
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


# ---- weights and attributes


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
    if not every:
        return  # an earlier removal has undone it
    with torch.no_grad():
        for old, block in zip(kept, layers, strict=True):
            for name in ("attention.output", "feed_forward.value"):
                if name in dict(block.named_modules()):  # not where the sublayer was removed
                    module: Any = block.get_submodule(name)
                    # A parameter of its own: the old one may be shared with the model that this one was made from.
                    scaled = module.weight * 2 ** (old // every)
                    module.weight = nn.Parameter(scaled, requires_grad=module.weight.requires_grad)
    # With rescale_every = 0 there is nothing to undo or redo: the flag only says that the model is in inference form.


def prepare_sublayers(parent: nn.Module, layers: Sequence[nn.Module], configs: Sequence[Any]) -> None:
    """Mend, before sublayers of `layers` (all of them) are removed, what reaches into the layers' modules (rwkv)."""
    if getattr(parent, "layers_are_rescaled", False):
        _undo_rescale(parent, layers, range(len(layers)))
    for config in configs:
        if hasattr(config, "rescale_every"):
            config.rescale_every = 0


def _slice_packed_layers(table: Any, n_layers: int, kept: Sequence[int]) -> None:
    """Keep the kept layers' part of an embedding [V, L * P] or a projection [L * P, D] (gemma3n, gemma4)."""
    weight = table.weight
    dim = 1 if isinstance(table, nn.Embedding) else 0
    if weight.device.type == "meta":
        raise LayerNotRemovableError(
            f"{type(table).__name__} packs one part per layer and is offloaded, so it can't be cut to the kept layers. "
            "Remove the layers before dispatching the model."
        )
    sliced = (
        weight.detach().unflatten(dim, (n_layers, -1)).index_select(dim, _index(kept, weight)).flatten(dim, dim + 1)
    )
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
    if decoder_model_type(model) == "zaya":
        gate = getattr(layers[0].mlp, "gate", None)
        if gate is not None and gate.use_eda:
            # The first layer has no earlier router state to mix in.
            gate.use_eda = False
            del gate.router_states_scale
    if decoder_model_type(model) == "gpt_neox_japanese":
        attention = layers[-1].attention
        if attention.dense_bias is None:
            # Only the last layer has this bias; a zero one keeps the mathematics and fits the config.
            attention.use_bias = True
            attention.dense_bias = nn.Parameter(torch.zeros_like(layers[-1].input_layernorm.bias))
    for index, layer in enumerate(layers):
        mixer: Any = getattr(layer, "self_attn", None)
        modes = getattr(getattr(mixer, "config", None), "kv_sharing_modes", None)
        if modes is not None and hasattr(mixer, "store_full_length_kv"):
            # The last unshared layer of each attention type hands its keys and values on (gemma3n, gemma4).
            mixer.store_full_length_kv = modes[index] == "store"


def retie_shared_blocks(model: nn.Module, parent: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Name anew which kept layer holds the weights that others share (zamba, zamba2)."""
    suffix = "shared_transf" if decoder_model_type(model) == "zamba" else "shared_transformer"
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

"""Keeping a transformers config in step with the layers that are left.

The rules go by what a field means (a count, a list with one entry per layer, a list of layer indices, a count of first
or last layers), not by architecture; what these can't know is in `layershap.surgery.families`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from layershap.model.io import base_model, is_encoder_decoder, part_of

# A decoder's own count comes first: in encoder-decoder families `num_hidden_layers` is the encoder's.
_DECODER_COUNTS = ("decoder_layers", "num_decoder_layers")
_ENCODER_COUNTS = ("encoder_layers", "num_encoder_layers")
_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks", "n_blocks")
_PREFIX_COUNTS = ("first_k_dense_replace", "num_dense_layers", "max_window_layers", "num_hash_layers")
_SUFFIX_COUNTS = ("num_kv_shared_layers",)
# Layers behind the decoder's own, which predict further tokens: some lists have entries for these too, at their ends.
_COUNTS_BEYOND = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")
# A list that names layers by their indices: by its name, unless its values say that it is something else.
_INDEX_LIST_NAME = re.compile(r"layers$|(^|_)layer_(ids|idxs?|indices|indexes)$|_attn_(idxs|indices|indexes)$")
_OTHER_INDICES = re.compile(r"vision|image|audio|mtp|encoder|^num_")
# One entry per layer, which is the index of a layer.
_SOURCE_LISTS = ("kv_source_layers",)
_ONE_BASED_INDEX_LISTS = ("ple_layer_ids",)
# Fields that are numbers in most families and one number per layer in some.
_NUMBERS_PER_LAYER = (
    "moe_topk",
    "num_experts",
    "intermediate_size",
    "moe_intermediate_size",
    "num_key_value_heads",
    "num_attention_heads",
    "activation_sparsity_pattern",
    "sliding_window",
    "rope_theta",
    "partial_rotary_factor",
    "partial_rotary_factors",
    "swiglu_limits",
    "swiglu_limits_shared",
    "attention_window",
)
# Of these, in encoder-decoder families, the encoder's (led).
_ENCODER_LISTS = ("attention_window",)
# Lists whose length transformers compares with the depth before it saves a config (`validate_layer_type`).
_VALIDATED_KINDS = ("layer_types", "mlp_layer_types")
_LAYERWISE_NAME = re.compile(r"(^|_)(layers?|blocks?)(_|$)|(^|_)types$")


Side = Literal["encoder", "decoder"]
"""Which stack of an encoder-decoder model; the layers of any other model are a decoder's here."""


def side_of(model: nn.Module, parent: nn.Module) -> Side:
    """On which side the layers are that `parent` holds."""
    if not is_encoder_decoder(model):
        return "decoder"
    encoder = part_of(base_model(model), "get_encoder")
    return "encoder" if encoder is not None and any(module is parent for module in encoder.modules()) else "decoder"


def decoder_configs(model: nn.Module, parent: nn.Module, n_layers: int) -> list[Any]:
    """The config objects (several if the model holds copies) that describe the stack whose layers `parent` holds."""
    primary = getattr(parent, "config", None) or getattr(model, "config", None)
    if primary is None or not hasattr(primary, "to_dict"):
        return []
    side = side_of(model, parent)
    others = _configs_of_the_other_side(model, side)
    found: dict[int, Any] = {}
    for config in all_configs(model):
        alike = type(config) is type(primary) and id(config) not in others
        if config is primary or (alike and layer_count_fields(config, n_layers, side)):
            found.setdefault(id(config), config)
    return list(found.values())


def _configs_of_the_other_side(model: nn.Module, side: Side) -> set[int]:
    """Ids of the configs that an encoder-decoder model's other stack has for itself (t5, t5gemma)."""
    base = base_model(model)
    if not is_encoder_decoder(model):
        return set()
    other = part_of(base, "get_decoder" if side == "encoder" else "get_encoder")
    return set() if other is None else {id(config) for config in all_configs(other)} - {id(base.config)}


def all_configs(model: nn.Module) -> Iterator[Any]:
    """The config objects of the model's modules, and the parts of these; some more than once."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "to_dict"):
            yield config
            yield from (value for value in vars(config).values() if hasattr(value, "to_dict"))


def layer_count_fields(config: Any, n_layers: int, side: Side = "decoder") -> list[str]:
    """Names of the stored fields that hold the number of layers of one side."""
    for names in (_DECODER_COUNTS, _COUNTS) if side == "decoder" else ((*_ENCODER_COUNTS, *_COUNTS),):
        fields = [name for name in names if vars(config).get(name) == n_layers]
        if fields:
            return fields
    return [name for name, value in vars(config).items() if is_per_layer(name, value, n_layers)]


def layer_counts(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The layer counts in the JSON of a config, those of its parts included."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from layer_counts(value)
        elif name in (*_DECODER_COUNTS, *_ENCODER_COUNTS, *_COUNTS, "depth") and isinstance(value, int):
            yield name, value


def is_per_layer(name: str, value: Any, n_layers: int, n_beyond: Collection[int] = ()) -> bool:
    """Whether a field holds one entry for each of `n_layers` layers, or for one of `n_beyond` more behind them."""
    lengths = {n_layers, *(n_layers + more for more in n_beyond)}
    if not isinstance(value, list | tuple) or len(value) not in lengths or name.startswith("mtp"):
        return False
    if is_index_list(name, value, n_layers, n_beyond) or name in _ONE_BASED_INDEX_LISTS:
        return False
    return name in _NUMBERS_PER_LAYER or _LAYERWISE_NAME.search(name) is not None


def _entries_beyond(fields: Mapping[str, Any], n_layers: int) -> set[int]:
    """How many entries lists may have beyond those of `n_layers` layers, for layers of multi-token prediction.

    The config says how many of these there are, or has a list of kinds that is longer than the decoder is deep.
    """
    named = {fields.get(name) for name in _COUNTS_BEYOND}
    kinds = {
        len(value) - n_layers
        for name, value in fields.items()
        if isinstance(value, list | tuple)
        and len(value) > n_layers
        and all(isinstance(kind, str) for kind in value)
        and _LAYERWISE_NAME.search(name) is not None
    }
    return {count for count in named | kinds if isinstance(count, int) and count > 0}


def is_index_list(name: str, value: Any, n_layers: int, n_beyond: Collection[int] = ()) -> bool:
    """Whether a field holds the indices of some, or all, of `n_layers` layers, and of `n_beyond` more behind them."""
    if not isinstance(value, list | tuple) or name in (*_ONE_BASED_INDEX_LISTS, *_SOURCE_LISTS):
        return False
    if _INDEX_LIST_NAME.search(name) is None or _OTHER_INDICES.search(name) is not None:
        return False
    if not all(type(i) is int and i >= 0 for i in value):
        return False
    # As long as the depth: either all the layers, or a number for each. Of two layers [0, 1] may be flags as well.
    lengths = {n_layers, *(n_layers + more for more in n_beyond)}
    return len(value) not in lengths or (n_layers > 2 and sorted(value) == list(range(len(value))))


def speaks_of_layers(name: str) -> bool:
    """Whether a field of this name, if it is a list, has entries for layers or names layers."""
    by_name = _INDEX_LIST_NAME.search(name) or _LAYERWISE_NAME.search(name)
    return by_name is not None or name in (*_ONE_BASED_INDEX_LISTS, *_NUMBERS_PER_LAYER)


def prune_config(config: Any, n_layers: int, kept: Sequence[int], side: Side = "decoder") -> dict[str, tuple[Any, Any]]:
    """Rewrite `config` in place so that it describes the `kept` ones of the `n_layers` layers on one `side`.

    Returns
    -------
    dict of str to (old, new)
        The fields that changed.
    """
    stored = dict(vars(config))
    place = {old: new for new, old in enumerate(kept)}
    n_beyond = _entries_beyond(stored, n_layers)
    behind = {n_layers + i: len(kept) + i for i in range(max(n_beyond, default=0))}
    new: dict[str, Any] = {}
    for name, value in stored.items():
        if name in _ENCODER_LISTS and side == "decoder" and stored.get("is_encoder_decoder"):
            continue
        if name in _SOURCE_LISTS and isinstance(value, list | tuple) and all(value[i] in place for i in kept):
            new[name] = type(value)(place[value[i]] for i in kept)
        elif is_per_layer(name, value, n_layers, n_beyond):
            new[name] = type(value)([*(value[i] for i in kept), *value[n_layers:]])
        elif is_index_list(name, value, n_layers, n_beyond):
            moved = place | behind
            new[name] = type(value)(moved[i] for i in value if i in moved)
        elif name in _ONE_BASED_INDEX_LISTS and isinstance(value, list | tuple):
            new[name] = type(value)(place[i - 1] + 1 for i in value if i - 1 in place)
        elif name in _PREFIX_COUNTS and isinstance(value, int) and value < n_layers:
            new[name] = sum(i < value for i in kept)
        elif name in _SUFFIX_COUNTS and isinstance(value, int):
            new[name] = sum(i >= n_layers - value for i in kept)
    new |= _fewer_stages(stored, n_layers, kept)
    for name in layer_count_fields(config, n_layers, side):
        if isinstance(stored[name], int):
            new[name] = len(kept)
    step = stored.get("decoder_sparse_step")
    if isinstance(step, int) and step > 1 and "mlp_only_layers" in stored:
        # Every n-th layer is a mixture of experts: a period does not survive a removal, a list of the others does.
        dense = stored["mlp_only_layers"] or []
        new["mlp_only_layers"] = [place[i] for i in kept if i in dense or (i + 1) % step]
        new["decoder_sparse_step"] = 1
    spec = stored.get("_heterogeneity_spec")
    if spec is not None:
        overrides = {place[i]: value for i, value in spec.per_layer_overrides.items() if i in place}
        new["_heterogeneity_spec"] = dataclasses.replace(spec, per_layer_overrides=overrides)
    for name, value in new.items():
        setattr(config, name, value)
    new |= _cut_to_depth(config, new, len(kept))
    return {name: (stored[name], value) for name, value in new.items() if name in stored and stored[name] != value}


def _fewer_stages(stored: Mapping[str, Any], n_layers: int, kept: Sequence[int]) -> dict[str, Any]:
    """Fields of a vision encoder that can be a backbone: what it gives out are its states after some of the layers.

    Where that layer is gone, it is the state after the last one before it that is left: the same tensor.
    """
    stages, chosen = stored.get("stage_names"), stored.get("_out_indices")
    if not isinstance(stages, list) or len(stages) != n_layers + 1 or not isinstance(chosen, list):
        return {}
    after = [sum(layer < (stage % len(stages)) for layer in kept) for stage in chosen]
    indices, names = list(dict.fromkeys(after)), stages[: len(kept) + 1]
    return {"stage_names": names, "_out_indices": indices, "_out_features": [names[index] for index in indices]}


def _cut_to_depth(config: Any, new: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Cut the lists of kinds that go on behind the layers, where transformers won't save a config with them.

    Code that reads a config without its validation can have brought them in; no module that is built reads them.
    """
    longer = [name for name in _VALIDATED_KINDS if name in new and len(new[name]) > depth]
    if not longer or not hasattr(config, "validate_layer_type"):
        return {}
    try:
        config.validate_layer_type()
    except ValueError:
        for name in longer:
            setattr(config, name, new[name][:depth])
        return {name: getattr(config, name) for name in longer}
    return {}


def layer_kinds(model: nn.Module, path: str, n_layers: int) -> list[str]:
    """The config's own names of the layers' kinds ("full_attention", "mamba", ...), empty if it has none."""
    parent = model.get_submodule(path.rpartition(".")[0]) if path else model
    for config in decoder_configs(model, parent, n_layers):
        kinds: Any = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
        if isinstance(kinds, list | tuple) and len(kinds) >= n_layers:
            return [str(kind) for kind in kinds[:n_layers]]  # those behind are of multi-token prediction
    return []


def decoder_model_type(model: nn.Module) -> str:
    """The decoder's own model type: a composite model (mllama) asks its text part."""
    config = getattr(model, "config", None)
    kind = str(getattr(config, "model_type", ""))
    return {"mllama_text_model": "mllama"}.get(kind, kind)

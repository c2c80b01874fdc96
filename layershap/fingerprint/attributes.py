"""What a model computes beside its weights: its config, its modules' settings, hooks and replaced forwards."""

from __future__ import annotations

import functools
import hashlib
import types
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

from layershap.fingerprint.describe import IndescribableError, digest_of

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))

_WITHOUT_EFFECT = frozenset(
    {
        # Where the model came from and lives, how it is loaded, saved and trained: no score depends on these.
        "_ep_plan", "_fsdp_plan", "_hf_hook", "_is_hf_initialized", "_keep_in_fp32_modules",
        "_keep_in_fp32_modules_strict", "_keys_to_ignore_on_load_missing", "_keys_to_ignore_on_load_unexpected",
        "_keys_to_ignore_on_save", "_no_split_modules", "_old_forward", "_pp_plan", "_skip_keys_device_placement",
        "_tied_weights_keys", "_tp_plan", "all_tied_weights_keys", "base_model_name_or_path", "forward",
        "generation_config", "gradient_checkpointing", "hf_device_map", "loss_type", "name_or_path", "peft_config",
        "warnings_issued",
    }
)  # fmt: skip

_CONFIG_WITHOUT_EFFECT = frozenset(
    {
        "_commit_hash", "_name_or_path", "architectures", "auto_map", "dtype", "gradient_checkpointing", "id2label",
        "label2id", "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip

_IMPLEMENTATIONS = ("_attn_implementation", "_experts_implementation")

_SIMPLE = (bool, int, float, complex, str, type(None))
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)


def config_values(model: nn.Module) -> dict[str, Any]:
    """The model's config by dotted name, without what no score depends on."""
    config = getattr(model, "config", None)
    return _flat(_plain_config(config)) if config is not None else {}


def module_values(model: nn.Module) -> dict[str, str]:
    """A digest of the modules' classes, one for each attribute that modules set, and one for each hook.

    Attributes that hold numbers, strings, functions or containers of these are looked at; of other objects, configs.
    """
    classes = hashlib.sha256()
    attributes: dict[str, hashlib._Hash] = defaultdict(hashlib.sha256)
    found: dict[str, str] = {}
    configs: dict[int, str] = {}
    for path, module in model.named_modules():
        classes.update(f"{path}:{type(module).__module__}.{type(module).__qualname__};".encode())
        for name, value in vars(module).items():
            if value is None or name in _OF_EVERY_MODULE or name in _WITHOUT_EFFECT:
                continue  # None may be the place of a cache
            if _is_simple(value):
                text = _digest(value, f"{path}.{name}")
            elif callable(getattr(value, "to_dict", None)):
                if id(value) not in configs:
                    configs[id(value)] = _digest(_plain_config(value), f"{path}.{name}")
                text = configs[id(value)]
            else:
                continue
            attributes[name].update(f"{path}:{text};".encode())
        found |= _replaced(path, module)
    hooks = {"forward hook of every module": torch_module._global_forward_hooks}
    hooks["forward pre-hook of every module"] = torch_module._global_forward_pre_hooks
    found |= {name: _digest(list(kept.values()), name) for name, kept in hooks.items() if kept}
    return {
        "module classes": classes.hexdigest()[:16],
        **{f"attribute {name}": sha.hexdigest()[:16] for name, sha in sorted(attributes.items())},
        **found,
    }


def _replaced(path: str, module: nn.Module) -> dict[str, str]:
    """Hooks on a module, and the forward that someone gave to this instance (accelerate's wraps the one it had)."""
    found = {}
    for kind, hooks in (("hook", module._forward_hooks), ("pre-hook", module._forward_pre_hooks)):
        if hooks:
            name = f"forward {kind} of {path or 'the model'}"
            found[name] = _digest(list(hooks.values()), name)
    own = vars(module).get("_old_forward" if hasattr(module, "_hf_hook") else "forward")
    if own is not None and getattr(own, "__func__", None) is not type(module).forward:
        name = f"replaced forward of {path or 'the model'}"
        function = own.__func__ if getattr(own, "__self__", None) is module else own
        found[name] = _digest(function, name)
    return found


def _digest(value: object, where: str) -> str:
    try:
        return digest_of(value, where)
    except IndescribableError:
        # The model's behaviour is in the fingerprint too; here the class has to do.
        return f"{type(value).__module__}.{type(value).__qualname__}"


def _is_simple(value: object) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return all(_is_simple(element) for element in value)
    if isinstance(value, dict):
        return all(_is_simple(element) for pair in value.items() for element in pair)
    return isinstance(value, (*_SIMPLE, *_FUNCTIONS))


def _plain_config(config: Any) -> dict[str, Any]:
    values = config.to_dict() if callable(getattr(config, "to_dict", None)) else vars(config)
    kept = _without_effect_removed(values)
    for name in _IMPLEMENTATIONS:
        kept[name] = getattr(config, name, None)
    return kept


def _without_effect_removed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(name): _without_effect_removed(value) if isinstance(value, Mapping) else value
        for name, value in sorted(values.items(), key=lambda item: str(item[0]))
        if name not in _CONFIG_WITHOUT_EFFECT
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, _SIMPLE) else repr(value)
    return flat

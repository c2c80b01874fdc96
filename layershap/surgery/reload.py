"""Can the pruned model's config say what the pruned model is?

If not, a plain ``from_pretrained`` would silently build another one: a layer may have baked its old index into its
mathematics, or the pattern of the layers that are left may not fit the config's terms.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layershap.model.io import evaluation_mode, is_quantized
from layershap.surgery.check import MODEL_ERRORS, plain_logits, relative_difference, tolerance

# Bookkeeping that differs between a model just built and one that was loaded, moved or used.
_IGNORED = {
    "training",
    "layer_idx",
    "num_hidden_layers",
    "gradient_checkpointing",
    "name_or_path",
    "dtype",
    "torch_dtype",
}
# big_bird switches its kernel by the length of the input it last saw.
_RUNTIME_CHOICES = {"original_full", "block_sparse", "BigBirdSelfAttention", "BigBirdBlockSparseAttention"}
_SCALARS = (bool, int, float, str, type(None))


def base_model(model: nn.Module) -> Any:
    """The transformers model itself, without PEFT's wrapper."""
    getter = getattr(model, "get_base_model", None)
    return getter() if getter is not None and hasattr(model, "peft_config") else model


def reload_problem(model: nn.Module, layers_path: str, *, rebuild: bool) -> str | None:
    """Why the config would not rebuild this model, or None if it would.

    Parameters
    ----------
    model : nn.Module
        A pruned transformers model; None is returned for any other module, which has no config to rebuild from.
    layers_path : str
        Dotted path of its layers.
    rebuild : bool
        Also build the model with memory, load the weights and compare logits; else only the structure is compared.
    """
    base = base_model(model)
    if not hasattr(base, "save_pretrained") or not hasattr(base, "config"):
        return None
    try:
        config = round_trip(base.config)
        with torch.device("meta"):
            fresh = type(base)(copy.deepcopy(config))
    except MODEL_ERRORS as error:
        if not rebuild:
            return None if "meta" in str(error) else f"its config is refused ({error})"
        fresh = None
    if fresh is not None:
        problem = _structural_difference(fresh, base, layers_path)
        if problem is not None or not rebuild:
            return problem
    if hasattr(model, "peft_config") or is_quantized(base) or any(p.device.type == "meta" for p in base.parameters()):
        return None
    return _rebuilt_difference(base, config)


def round_trip(config: Any) -> Any:
    """The config as it comes back from its JSON."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.json")
        path.write_text(config.to_json_string(use_diff=True), encoding="utf-8")
        if not json.loads(path.read_text(encoding="utf-8")):
            raise ValueError(f"{type(config).__name__} writes an empty JSON")
        restored = type(config).from_json_file(path)
    # The choice of attention kernel is not part of a config file.
    restored._attn_implementation = config._attn_implementation
    return restored


def _structural_difference(fresh: nn.Module, live: nn.Module, layers_path: str) -> str | None:
    fresh_modules, live_modules = dict(fresh.named_modules()), dict(live.named_modules())
    switched: tuple[str, ...] = ()
    quantized = is_quantized(live)
    for name, module in fresh_modules.items():
        other: Any = live_modules.get(name)
        if type(other) is not type(module) and {type(other).__name__, type(module).__name__} <= _RUNTIME_CHOICES:
            switched += (name + ".",)
        if other is None:
            return f"the config asks for a module {name} that the pruned model does not have"
        other = getattr(other, "base_layer", other)
        leaf = next(other.children(), None) is None
        if quantized and (isinstance(module, nn.Linear) or (leaf and is_quantized(other))):
            continue  # another class, or packed weights of another shape
        if _differ(type(other).__name__, type(module).__name__):
            return f"the config makes {name} a {type(module).__name__}, it is a {type(other).__name__}"
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            mine = getattr(other, key, None)
            shape = None if mine is None else tuple(mine.shape)
            if shape != tuple(tensor.shape) and not (isinstance(mine, torch.Tensor) and mine.numel() == 0):
                return f"the config makes {name}.{key} of shape {tuple(tensor.shape)}, it is of shape {shape}"
        if name.startswith(layers_path):
            for key in sorted(vars(module).keys() & vars(other).keys() - _IGNORED):
                a, b = vars(module)[key], vars(other)[key]
                if not key.startswith("_") and _differ(a, b):
                    return f"the config makes {name}.{key} {a!r}, it is {b!r}: the layer's old index is baked into it"
    extra = [name for name in live_modules.keys() - fresh_modules.keys() if not name.startswith(switched)]
    if extra and not holds_adapters(live):
        return f"the pruned model has a module {min(extra)} that the config does not ask for"
    return None


def holds_adapters(model: nn.Module) -> bool:
    """Whether PEFT has put adapters into the model, which its config does not speak of."""
    return hasattr(model, "peft_config") or any(hasattr(module, "base_layer") for module in model.modules())


def _differ(a: Any, b: Any) -> bool:
    if not isinstance(a, _SCALARS) or not isinstance(b, _SCALARS):
        return False
    if isinstance(a, float) and isinstance(b, float):
        return not math.isclose(a, b, rel_tol=1e-6) and not (math.isnan(a) and math.isnan(b))
    return a != b and not {a, b} <= _RUNTIME_CHOICES


def _rebuilt_difference(base: Any, config: Any) -> str | None:
    tensor = next(p for p in base.parameters())
    devices = {p.device for p in base.parameters()}
    if len(devices) > 1:
        return None
    try:
        rebuilt = type(base)(copy.deepcopy(config)).to(device=tensor.device, dtype=base.dtype)
        rebuilt.load_state_dict(base.state_dict(), strict=True)
        rebuilt.tie_weights()
        with evaluation_mode(rebuilt):
            difference = relative_difference(plain_logits(rebuilt), plain_logits(base))
    except MODEL_ERRORS as error:
        return f"a model built from its config does not take its weights ({error})"
    if difference > tolerance(base):
        return f"a model built from its config gives other logits (by {difference:.2g} of the largest)"
    return None

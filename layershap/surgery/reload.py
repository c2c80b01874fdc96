"""Can the pruned model's config say what the pruned model is?

If not, a plain ``from_pretrained`` would silently build another one: a layer may have baked its old index into its
mathematics, or the pattern of the layers that are left may not fit the config's terms.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from layershap.model.agreement import MODEL_ERRORS, plain_logits, relative_difference, tolerance
from layershap.model.io import base_model, evaluation_mode, holds_adapters, is_quantized

# Bookkeeping that differs between a model just built and one that was loaded, moved or used.
_IGNORED = {
    "training",
    "layer_idx",
    "gradient_checkpointing",
    "name_or_path",
    "dtype",
    "torch_dtype",
    # Stochastic depth (beit) drops later layers more often in training; evaluation knows nothing of it.
    "drop_prob",
}
# big_bird switches its kernel by the length of the input it last saw.
_RUNTIME_CHOICES = {"original_full", "block_sparse", "BigBirdSelfAttention", "BigBirdBlockSparseAttention"}
_SCALARS = (bool, int, float, str, type(None))
# Children that PEFT, activation checkpointing and torch.compile put between a module's name and the module.
_WRAPPED = ("base_layer", "original_module", "token_adapter", "_checkpoint_wrapped_module", "_orig_mod")


def reload_problem(model: nn.Module, layers_path: str, logits_BTV: Tensor | None) -> str | None:
    """Why the config would not rebuild this model, or None if it would.

    Parameters
    ----------
    model : nn.Module
        A pruned transformers model; None is returned for any other module, which has no config to rebuild from.
    layers_path : str
        Dotted path of its layers.
    logits_BTV : Tensor [B, T, V], optional
        Its logits of the probe: the rebuilt model, with its weights, must give the same. Not compared if None, or
        where the weights can't be lent to another model (quantised, offloaded, on several devices, with adapters);
        then the structure and what the layers keep of the config decide, and a model with its own code is not vouched
        for.
    """
    base = base_model(model)
    if not hasattr(base, "save_pretrained") or not hasattr(base, "config"):
        return None
    compares = logits_BTV is not None and _can_lend_weights(base)
    try:
        config = round_trip(base.config)
    except MODEL_ERRORS as error:
        return f"its config is refused ({error})"
    try:
        with torch.device("meta"):
            fresh = type(base)(copy.deepcopy(config))
    except MODEL_ERRORS as error:
        if not compares:
            return f"its config is refused, or can't be tried without memory ({error})"
    else:
        # What the layers keep of the layer count may be of no consequence: the logits tell.
        problem = _structural_difference(fresh, base, layers_path, {"num_hidden_layers"} if compares else ())
        if problem is not None:
            return problem
    if logits_BTV is not None and compares:
        return _rebuilt_difference(base, config, logits_BTV)
    if not type(base).__module__.startswith("transformers.models."):
        return "it has code of its own, and a model built from its config was compared in structure only"
    return None


def _can_lend_weights(base: nn.Module) -> bool:
    """Whether another model on one device can run with the weights of this one."""
    devices = {parameter.device for parameter in base.parameters()}
    return (
        len(devices) == 1 and next(iter(devices)).type != "meta" and not is_quantized(base) and not holds_adapters(base)
    )


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


def _plain_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules by the names that they have in the model without wrappers and adapters, each once."""
    seen: set[int] = set()

    def walk(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        while inner := next((c for name, c in module.named_children() if name in _WRAPPED), None):
            module = inner
        if id(module) in seen:
            return
        seen.add(id(module))
        yield prefix, module
        for name, child in module.named_children():
            yield from walk(f"{prefix}.{name}" if prefix else name, child)

    yield from walk("", model)


def _structural_difference(
    fresh: nn.Module, live: nn.Module, layers_path: str, unimportant: Collection[str]
) -> str | None:
    fresh_modules, live_modules = dict(_plain_modules(fresh)), dict(_plain_modules(live))
    switched: tuple[str, ...] = ()
    quantized = is_quantized(live)
    for name, module in fresh_modules.items():
        other = live_modules.get(name)
        if type(other) is not type(module) and {type(other).__name__, type(module).__name__} <= _RUNTIME_CHOICES:
            switched += (name + ".",)
        if other is None:
            return f"the config asks for a module {name} that the pruned model does not have"
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
            for key in sorted(vars(module).keys() & vars(other).keys() - _IGNORED - {*unimportant}):
                a, b = vars(module)[key], vars(other)[key]
                if not key.startswith("_") and _differ(a, b):
                    return f"the config makes {name}.{key} {a!r}, it is {b!r}: the layer's old index is baked into it"
    extra = [name for name in live_modules.keys() - fresh_modules.keys() if not name.startswith(switched)]
    if extra:
        return f"the pruned model has a module {min(extra)} that the config does not ask for"
    return None


def _differ(a: Any, b: Any) -> bool:
    if not isinstance(a, _SCALARS) or not isinstance(b, _SCALARS):
        return False
    if isinstance(a, float) and isinstance(b, float):
        return not math.isclose(a, b, rel_tol=1e-6) and not (math.isnan(a) and math.isnan(b))
    return a != b and not {a, b} <= _RUNTIME_CHOICES


def _rebuilt_difference(base: Any, config: Any, logits_BTV: Tensor) -> str | None:
    device = next(base.parameters()).device
    try:
        with torch.device("cpu"), init_empty_weights(include_buffers=False):
            rebuilt = type(base)(copy.deepcopy(config))
        # The weights are lent, not copied: a large model is compared in the memory that it has.
        rebuilt.load_state_dict(base.state_dict(), strict=True, assign=True)
        rebuilt.tie_weights()
        precision = {name: buffer.dtype for name, buffer in base.named_buffers()}
        for name, buffer in rebuilt.named_buffers():
            buffer.data = buffer.data.to(device, precision.get(name, buffer.dtype))
        with evaluation_mode(rebuilt):
            difference = relative_difference(plain_logits(rebuilt), logits_BTV)
    except MODEL_ERRORS as error:
        return f"a model built from its config does not take its weights ({error})"
    if not difference <= tolerance(base):
        return f"a model built from its config gives other logits (by {difference:.2g} of the largest)"
    return None

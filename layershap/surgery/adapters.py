"""Keeping PEFT's adapter configs in step: after a removal they must still name the modules that hold the adapters.

A config names modules by suffix, by regular expression, by layer index, or minus exclusions; none of these can be
renumbered in general. So the model is asked, not the names: which modules hold an adapter. A config that no longer
matches exactly those is spelled out as their full names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from layershap.model.io import base_model
from layershap.surgery.indices import rename


def renumber_adapters(model: nn.Module, path: str, positions: Mapping[int, int]) -> None:
    """Rewrite what PEFT configs say about layers, so that saved adapters load into the pruned base model.

    Parameters
    ----------
    model : nn.Module
        The pruned model: a PEFT wrapper, or a transformers model with adapters.
    path : str
        Dotted path of its layers.
    positions : mapping of int to int
        Old place -> new place of each layer that stays.

    Notes
    -----
    With ``layer_replication`` PEFT builds the layers itself from those of the base: there the removal goes into the
    config, and the adapter loads into the base as it was before PEFT.
    """
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, dict):
        return
    root = base_model(model)
    inner = path.removeprefix("base_model.model.") if root is not model else path
    former = {new: old for old, new in positions.items()}
    for adapter, config in configs.items():
        if not hasattr(config, "target_modules"):
            continue  # prompts: nothing in them belongs to a layer that the self-check would not miss
        if getattr(config, "layer_replication", None):
            config.layer_replication = _replication(config.layer_replication, list(positions))
        _name_modules(config, root, adapter)
        if getattr(config, "target_parameters", None):
            _name_parameters(config, root, adapter)
        if getattr(config, "modules_to_save", None):
            _name_saved_modules(config, root, adapter)
        _name_patterns(config, root, adapter, inner, positions=positions, former=former)
    for names in ("targeted_module_names", "targeted_parameter_names"):
        tuner = getattr(model, "base_model", None)
        if isinstance(vars(tuner).get(names) if isinstance(tuner, nn.Module) else None, list):
            renamed = (rename(name, inner, positions) for name in getattr(tuner, names))
            setattr(tuner, names, [name for name in renamed if name is not None])


def _replication(ranges: Iterable[Iterable[int]], kept: list[int]) -> list[list[int]]:
    """The ranges of base layers [start, end) that give the kept ones of the replicated layers."""
    replicated = [i for start, end in ranges for i in range(start, end)]
    shorter: list[list[int]] = []
    for index in (replicated[place] for place in sorted(kept)):
        if shorter and shorter[-1][1] == index:
            shorter[-1][1] += 1
        else:
            shorter.append([index, index + 1])
    return shorter


def _outer_modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules by name, without those inside PEFT's own wrappers: what PEFT matches its configs against."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # a model with adapters has PEFT installed
    from peft.utils.other import AuxiliaryTrainingWrapper

    wrapper = ""  # what is inside follows it directly
    for name, module in root.named_modules():
        if name and not (wrapper and name.startswith(wrapper)):
            if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
                wrapper = name + "."
            yield name, module


def _holds(module: Any, adapter: str) -> bool:
    """Whether a module of PEFT's holds weights of this adapter."""
    return any(adapter in getattr(module, name, ()) for name in getattr(module, "adapter_layer_names", ()))


def _adapted_modules(root: nn.Module, adapter: str) -> dict[str, nn.Module]:
    """The modules by name that hold the adapter, apart from those whose parameters or copies it trains."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {
        name: module
        for name, module in _outer_modules(root)
        if isinstance(module, BaseTunerLayer) and not hasattr(module, "parameter_name") and _holds(module, adapter)
    }


def _name_modules(config: Any, root: nn.Module, adapter: str) -> None:
    """Let ``target_modules`` and the fields beside it match the modules that hold the adapter, and no others."""
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.constants import DUMMY_TARGET_MODULES

    def matched() -> set[str]:
        found = {name for name, _ in _outer_modules(root) if check_target_module_exists(config, name)}
        # An empty list of layers is read as all layers: it never means what it says.
        return found if getattr(config, "layers_to_transform", None) != [] else {""}

    adapted = _adapted_modules(root, adapter)
    if config.target_modules in (None, DUMMY_TARGET_MODULES) or matched() == set(adapted):
        return
    for name in ("layers_to_transform", "layers_pattern", "exclude_modules"):
        if hasattr(config, name):
            setattr(config, name, None)
    if not adapted:
        config.target_modules = [] if getattr(config, "target_parameters", None) else DUMMY_TARGET_MODULES
        return
    forward = {name for name, module in adapted.items() if getattr(module, "is_feedforward", False)}
    if getattr(config, "feedforward_modules", None):  # (IA)^3 wants them to be a subset
        config.feedforward_modules = forward
    config.target_modules = set(adapted)
    if matched() != set(adapted):  # a full name that is also the end of a longer one
        config.target_modules = "|".join(map(re.escape, sorted(adapted)))
        if forward:
            config.feedforward_modules = "|".join(map(re.escape, sorted(forward)))


def _name_parameters(config: Any, root: nn.Module, adapter: str) -> None:
    """Let ``target_parameters`` match the parameters that hold the adapter, and no others."""
    held, others = set(), set()
    for name, module in root.named_modules():
        if hasattr(module, "parameter_name") and _holds(module, adapter):
            held.add(_adapted_name(name, module))
        bare = name.replace(".base_layer", "")
        others |= {f"{bare}.{parameter}" for parameter, _ in module.named_parameters(recurse=False)}
    targets = list(config.target_parameters)
    if {name for name in others | held if _ends(name, targets)} != held:
        config.target_parameters = sorted(held) or None


def _adapted_name(name: str, module: nn.Module) -> str:
    """The name that an adapted module or parameter has in the model without adapters."""
    parameter = getattr(module, "parameter_name", None)
    return name.replace(".base_layer", "") + (f".{parameter}" if parameter else "")


def _ends(name: str, targets: Iterable[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _name_saved_modules(config: Any, root: nn.Module, adapter: str) -> None:
    """Let ``modules_to_save`` match the modules of which the adapter holds a copy, and no others."""
    modules = dict(_outer_modules(root))
    held = {name for name, module in modules.items() if adapter in getattr(module, "modules_to_save", ())}
    if {name for name in modules if any(name.endswith(target) for target in config.modules_to_save)} != held:
        config.modules_to_save = sorted(held) or None


def _name_patterns(
    config: Any, root: nn.Module, adapter: str, inner: str, *, positions: Mapping[int, int], former: Mapping[int, int]
) -> None:
    """Let ``rank_pattern`` and its like give each adapted module what they gave it under its old name."""
    from peft.utils.other import get_pattern_key

    def given(pattern: dict[str, Any], name: str) -> Any:
        return pattern.get(get_pattern_key(pattern.keys(), name))

    names = [_adapted_name(name, module) for name, module in root.named_modules() if _holds(module, adapter)]
    for field, pattern in list(vars(config).items()):
        if not field.endswith("_pattern") or not isinstance(pattern, dict) or not pattern:
            continue
        moved = ((rename(key, inner, positions), value) for key, value in pattern.items())
        renamed = {key: value for key, value in moved if key is not None}
        wanted = {name: given(pattern, rename(name, inner, former) or name) for name in names}
        if any(given(renamed, name) != value for name, value in wanted.items()):
            # Anchored: a pattern without ^ also matches the end of a longer name.
            renamed = {f"^{name}": value for name, value in wanted.items() if value is not None}
        setattr(config, field, renamed)

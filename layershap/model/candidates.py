"""Module lists of a model that may hold its decoder layers, the likeliest first."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from layershap.model.io import part_of, text_config


def candidates(model: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, ...]]]:
    """Paths and modules of the lists, by the rule of `layershap.find_layers`."""
    lists: list[tuple[str, nn.ModuleList]] = []
    for root in _decoder_roots(model):
        inside = {id(m) for m in root.modules()}
        lists = [
            (path, module)
            for path, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) > 1 and id(module) in inside
        ]
        if lists:
            break
    lists = [item for item in lists if not _is_one_of_parallel_lists(model, item[0])]
    lists.sort(key=lambda item: sum(p.numel() for p in item[1].parameters()), reverse=True)
    expected = getattr(text_config(getattr(model, "config", None)), "num_hidden_layers", None)
    by_count = [item for item in lists if len(item[1]) == expected]
    largest = [item for item in lists if len(item[1]) == len(lists[0][1])]  # rivals of the largest, itself first
    seen: set[str] = set()
    for path, module in by_count + largest:
        if path not in seen:
            seen.add(path)
            yield path, tuple(module)


def _is_one_of_parallel_lists(model: nn.Module, path: str) -> bool:
    """Whether a layer is spread over several lists of one parent (xlm): then no module is the layer."""
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    own = parent.get_submodule(name)
    return any(
        isinstance(other, nn.ModuleList)
        and other is not own
        and len(other) == len(list(own.children()))
        and next(other.parameters(), None) is not None
        for other in parent.children()
    )


def _decoder_roots(model: nn.Module) -> Iterator[nn.Module]:
    if (decoder := part_of(model, "get_decoder")) is not None:
        yield decoder
    base = getattr(model, "base_model", None)
    if isinstance(base, nn.Module):
        yield base
    yield model

"""Keeping one layer's offloaded weights on the execution device while many states pass through it.

accelerate's hooks load a module's weights before each call and drop them after it. Within `layer_loaded` they are
loaded once, and the calls go straight to the module's own forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def layer_loaded(layer: nn.Module) -> Iterator[None]:
    """Load an offloaded layer once for the time of the context; do nothing for other layers."""
    entered: list[tuple[nn.Module, Any, Any]] = []
    try:
        for module in layer.modules():
            hook = getattr(module, "_hf_hook", None)
            if hook is None or not _offloads(hook):
                continue
            hook.pre_forward(module)
            entered.append((module, hook, module.__dict__["forward"]))
            module.__dict__["forward"] = module._old_forward
        yield
    finally:
        for module, hook, hooked_forward in reversed(entered):
            module.__dict__["forward"] = hooked_forward
            hook.post_forward(module, None)


@contextmanager
def loaded(module: nn.Module) -> Iterator[None]:
    """Load a module's own offloaded weights for the time of the context; do nothing for other modules."""
    hook = getattr(module, "_hf_hook", None)
    if hook is None or not _offloads(hook):
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)


def is_offloaded(layer: nn.Module) -> bool:
    """Whether some weights of the layer live elsewhere until its call."""
    return any(_offloads(module._hf_hook) for module in layer.modules() if hasattr(module, "_hf_hook"))


def _offloads(hook: Any) -> bool:
    return any(bool(getattr(part, "offload", False)) for part in getattr(hook, "hooks", (hook,)))

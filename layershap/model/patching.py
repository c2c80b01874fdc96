"""Changing a model for a while: other forwards, evaluation mode; one thread at a time.

Modules are changed in place, so what one thread patches another would run. Each context here therefore holds its
modules for its thread, and another thread that comes meanwhile is refused rather than made to wait (for a thread that
may be waiting for it) or given another model's results.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from layershap.exceptions import ModelInUseError

Forward = Callable[..., Any]


@dataclass
class _Claim:
    """The thread that holds a module, the contexts it does so in, and what was said of it meanwhile."""

    thread: threading.Thread
    contexts: set[object] = field(default_factory=set)
    said: set[str] = field(default_factory=set)


@dataclass
class _Patches:
    """The forwards given to one module, the latest last, and what it had before."""

    base: Forward
    had_own: bool
    entries: list[_Patch] = field(default_factory=list)


@dataclass(eq=False)
class _Patch:
    """One forward given to a module, for the time of one context."""

    module: nn.Module
    forward: Forward | None = None


_guard = threading.RLock()
_claims: WeakKeyDictionary[nn.Module, _Claim] = WeakKeyDictionary()
_patches: WeakKeyDictionary[nn.Module, _Patches] = WeakKeyDictionary()


@contextmanager
def claimed(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Hold modules for this thread; contexts of one thread may overlap.

    Raises
    ------
    ModelInUseError
        Another thread holds one of them.
    """
    own = list(modules)
    context = object()
    try:
        with _guard:
            for module in own:
                _refuse_another_thread(module)
            for module in own:
                _claims.setdefault(module, _Claim(threading.current_thread())).contexts.add(context)
        yield
    finally:
        try:
            _release(own, context)
        except KeyboardInterrupt:
            _release(own, context)
            raise


def first_said(module: nn.Module, what: str) -> bool:
    """Whether something is said of a module for the first time in one piece of work, as a fit with several games is.

    True every time where this thread doesn't hold the module.
    """
    with _guard:
        claim = _claims.get(module)
        if claim is None or claim.thread is not threading.current_thread():
            return True
        first = what not in claim.said
        claim.said.add(what)
        return first


def _release(modules: list[nn.Module], context: object) -> None:
    """Let go of what the context holds, however far it came and however often this is called."""
    with _guard:
        for module in modules:
            claim = _claims.get(module)
            if claim is None:
                continue
            claim.contexts.discard(context)
            if not claim.contexts:
                _claims.pop(module, None)


def _refuse_another_thread(module: nn.Module) -> None:
    claim = _claims.get(module)
    if claim is None or claim.thread is threading.current_thread():
        return
    if not claim.thread.is_alive():  # it ended inside a context, which nobody will leave any more
        del _claims[module]
        return
    raise ModelInUseError(
        f"the thread {claim.thread.name!r} is working on this model ({type(module).__name__}): layers are skipped and "
        "scored by changing the model in place for a while, so one thread at a time can do that. Give each thread a "
        "copy (copy.deepcopy(model)), or let one wait for the other"
    )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch off dropout for the time of the context; each module's own training flag comes back afterwards.

    Raises
    ------
    ModelInUseError
        Another thread is working on the model.
    """
    modules = list(model.modules())
    with claimed(modules):
        training = [vars(module) for module in modules if module.training]
        try:
            _set_training(training, False)
            yield
        finally:
            _set_training(training, True)


def _set_training(modules: list[dict[str, Any]], flag: bool) -> None:
    # One call that runs no Python code, so that Ctrl-C can't come in its middle.
    deque(map(dict.__setitem__, modules, repeat("training"), repeat(flag)), maxlen=0)


@contextmanager
def patched(modules: Iterable[nn.Module], make: Callable[[int, Forward], Forward]) -> Iterator[None]:
    """Give each module the forward ``make(index, original)`` for the time of the context, whatever happens in it.

    Contexts may overlap in any way (generators): when one is left, its forwards go and those of the others stay, the
    latest on top. The patch sits on the instance, outside any hook that accelerate has put there.

    Raises
    ------
    ModelInUseError
        Another thread is working on the modules.
    """
    own = list(modules)
    given: list[_Patch] = []
    with claimed(own):
        try:
            for index, module in enumerate(own):
                patch = _Patch(module)
                given.append(patch)
                _put(patch, index, make)
            yield
        finally:
            try:
                for patch in reversed(given):
                    _take_away(patch)
            except KeyboardInterrupt:
                for patch in reversed(given):  # once more: what is away already is left alone
                    _take_away(patch)
                raise


def _put(patch: _Patch, index: int, make: Callable[[int, Forward], Forward]) -> None:
    module = patch.module
    patches = _patches.get(module)
    if patches is None:
        patches = _patches[module] = _Patches(module.forward, "forward" in vars(module))

    def below(*args: Any, **kwargs: Any) -> Any:
        position = patches.entries.index(patch)
        under = patches.entries[position - 1].forward if position else patches.base
        assert under is not None
        return under(*args, **kwargs)

    forward = make(index, below if patches.entries else patches.base)
    if getattr(module, "_compiled_call_impl", None) is not None:
        # A layer that the user has compiled in place (layer.compile()): a patch is not to be traced.
        forward = torch.compiler.disable(forward)
    patch.forward = forward
    patches.entries.append(patch)
    vars(module)["forward"] = forward


def _take_away(patch: _Patch) -> None:
    module = patch.module
    patches = _patches.get(module)
    if patches is None:
        return
    if patch in patches.entries:
        patches.entries.remove(patch)
    if patches.entries:
        vars(module)["forward"] = patches.entries[-1].forward
        return
    if patches.had_own:
        vars(module)["forward"] = patches.base
    else:
        vars(module).pop("forward", None)
    del _patches[module]

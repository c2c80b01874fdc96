"""A digest of a Python value that is the same in another process if the value is: data, functions, objects.

A function is its code, its defaults, what it closes over, its attributes, and the globals that its code names. What
belongs to an installed library is its name and the library's version.
"""

from __future__ import annotations

import copyreg
import enum
import functools
import hashlib
import json
import pickle
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from layershap.fingerprint.weights import add_values, weights_digest

_PLAIN = (bool, int, float, complex, str, bytes, types.NoneType, types.EllipsisType, PurePath)
_TORCH_PLAIN = (torch.dtype, torch.device, torch.layout, np.dtype, np.generic)
_LIBRARIES = tuple(Path(sysconfig.get_paths()[key]).resolve() for key in ("stdlib", "purelib", "platlib"))
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_BUILTINS = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    np.ufunc,
)
_OF_EVERY_CLASS = {
    "__abstractmethods__", "__annotate__", "__annotations__", "__annotations_cache__", "__dataclass_fields__",
    "__dataclass_params__", "__dict__", "__doc__", "__firstlineno__", "__module__", "__orig_bases__", "__parameters__",
    "__qualname__", "__slotnames__", "__static_attributes__", "__weakref__", "_abc_impl",
}  # fmt: skip


class IndescribableError(TypeError):
    """A value holds something that can't be told from another; the message says where and what."""


def digest_of(value: object, name: str) -> str:
    """A digest of a value; `name` is what messages call it.

    Raises
    ------
    IndescribableError
        The value holds an open file, a generator, a lock or the like.
    """
    return _Describer().digest(value, name)[:16]


class _Describer:
    """Digests of nested values. A value that holds itself is a cycle there; one met again has the same digest."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[str, object]] = {}  # with the value, so that its id stays its own
        self._active: set[int] = set()

    def digest(self, value: Any, where: str) -> str:
        if type(value) in _PLAIN or isinstance(value, (PurePath, *_TORCH_PLAIN)):
            return _sha([type(value).__name__, repr(value)])
        if id(value) in self._known:
            return self._known[id(value)][0]
        if id(value) in self._active:
            return "cycle"
        self._active.add(id(value))
        found = _sha(self._parts(value, where))
        self._active.discard(id(value))
        self._known[id(value)] = (found, value)
        return found

    def _parts(self, value: Any, where: str) -> Iterator[str]:
        kind = type(value)
        yield f"{kind.__module__}.{kind.__qualname__}"
        if isinstance(value, enum.Enum):
            yield value.name
        elif isinstance(value, Tensor):
            yield from self._tensor(value)
        elif isinstance(value, np.ndarray):
            yield from self._array(value, where)
        elif isinstance(value, nn.Module):
            yield from (repr(value), weights_digest(value))
        elif isinstance(value, PreTrainedTokenizerBase):
            yield from _tokenizer(value)
        elif kind is dict or kind is types.MappingProxyType:
            for key, element in value.items():
                yield self.digest(key, f"a key of {where}")
                yield self.digest(element, f"{where}[{key!r:.40}]")
        elif kind in (list, tuple):
            for index, element in enumerate(value):
                yield self.digest(element, f"{where}[{index}]")
        elif kind in (set, frozenset):
            yield from sorted(self.digest(element, f"an element of {where}") for element in value)
        elif isinstance(value, types.CodeType):
            yield from self._code(value, where)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value, where)
        elif isinstance(value, types.MethodType):
            yield self.digest(value.__func__, where)
            yield self.digest(value.__self__, f"{where}.__self__")
        elif isinstance(value, functools.partial):
            yield self.digest(value.func, f"{where}.func")
            yield self.digest(value.args, f"{where}.args")
            yield self.digest(value.keywords, f"{where}.keywords")
        elif isinstance(value, types.ModuleType):
            yield from _module(value)
        elif isinstance(value, type):
            yield from self._class(value, where)
        elif isinstance(value, property):
            yield self.digest((value.fget, value.fset), where)
        elif isinstance(value, functools.cached_property):
            yield self.digest(value.func, where)
        elif isinstance(value, staticmethod | classmethod):
            yield self.digest(value.__func__, where)
        elif isinstance(value, _SLOTS):
            yield value.__name__
        elif isinstance(value, _BUILTINS):
            yield _name(value)
            owner = getattr(value, "__self__", None)
            if owner is not None and not isinstance(owner, types.ModuleType):
                yield self.digest(owner, f"{where}.__self__")
        else:
            yield from self._object(value, where)

    def _tensor(self, value: Tensor) -> Iterator[str]:
        sha = hashlib.sha256()
        add_values(sha.update, value.detach())
        yield from (str(tuple(value.shape)), str(value.dtype), sha.hexdigest())

    def _array(self, value: np.ndarray[Any, Any], where: str) -> Iterator[str]:
        yield from (str(value.dtype), str(value.shape))
        if value.dtype.hasobject:
            yield self.digest(value.tolist(), where)
        else:
            yield hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()

    def _code(self, value: types.CodeType, where: str) -> Iterator[str]:
        yield from (value.co_code.hex(), str(value.co_names), str(value.co_varnames), str(value.co_freevars))
        for constant in value.co_consts:
            yield self.digest(constant, where)

    def _function(self, value: types.FunctionType, where: str) -> Iterator[str]:
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or ()):
            try:
                content = cell.cell_contents
            except ValueError:  # not yet given a value
                continue
            yield name + self.digest(content, f"{name!r}, which {where} closes over")
        yield self.digest((value.__defaults__, value.__kwdefaults__), f"the defaults of {where}")
        yield self.digest(value.__dict__, f"the attributes of {where}")
        if _is_library(value.__module__):
            yield _name(value)
            return
        yield self.digest(value.__code__, where)
        for name in sorted(_global_names(value.__code__) & value.__globals__.keys()):
            yield name + self.digest(value.__globals__[name], f"the global {name!r}, which {where} reads")

    def _class(self, value: type, where: str) -> Iterator[str]:
        yield _name(value)
        if _is_library(value.__module__):
            return
        yield self.digest(value.__bases__, f"the bases of {where}")
        for name, member in sorted(vars(value).items()):
            if name not in _OF_EVERY_CLASS:
                yield name + self.digest(member, f"{where}.{name}")

    def _object(self, value: object, where: str) -> Iterator[str]:
        """Anything else, by what pickle would keep of it."""
        yield self.digest(type(value), f"the class of {where}")
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            reduced: Any = value.__reduce_ex__(4) if reduce is None else reduce(value)
        except (TypeError, AttributeError, RuntimeError, NotImplementedError, pickle.PickleError) as error:
            raise IndescribableError(f"{where}: a {type(value).__name__} ({error})") from error
        if isinstance(reduced, str):
            yield reduced
            yield self.digest(getattr(value, "__wrapped__", None), where)
            return
        build, arguments, *rest = reduced
        state, items, entries = [*rest, None, None, None][:3]
        yield self.digest((build, arguments), where)
        if isinstance(state, Mapping):
            for name, element in state.items():
                if isinstance(getattr(type(value), str(name), None), functools.cached_property):
                    continue  # follows from the rest, and may not have been asked for yet
                yield str(name) + self.digest(element, f"{where}.{name}")
        else:
            yield self.digest(state, where)
        yield self.digest([list(items or ()), list(entries or ())], where)


def _sha(parts: Iterator[str] | list[str]) -> str:
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass")
        sha.update(f"{len(data)}:".encode() + data)
    return sha.hexdigest()


def _tokenizer(value: PreTrainedTokenizerBase) -> Iterator[str]:
    """What it makes of a text, not where it was loaded from or which padding its last call left behind."""
    backend = getattr(value, "backend_tokenizer", None)
    if backend is not None:
        kept = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("truncation", "padding")}
        yield json.dumps(kept, sort_keys=True)
    yield json.dumps(value.get_vocab(), sort_keys=True)
    yield from (str(sorted(value.special_tokens_map.items())), value.padding_side, str(value.chat_template))


def _module(value: types.ModuleType) -> Iterator[str]:
    yield value.__name__
    if _is_library(value.__name__):
        yield _version(value.__name__)
    elif getattr(value, "__file__", None):
        yield hashlib.sha256(Path(str(value.__file__)).read_bytes()).hexdigest()


def _name(value: Any) -> str:
    module = getattr(value, "__module__", None) or ""
    return f"{module}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))} {_version(module)}"


def _version(module: str) -> str:
    return str(getattr(sys.modules.get(module.partition(".")[0]), "__version__", ""))


def _is_library(module: str | None) -> bool:
    top = (module or "").partition(".")[0]
    if top in sys.stdlib_module_names or top == "layershap":
        return top != "__main__"
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is not None and any(Path(file).resolve().is_relative_to(folder) for folder in _LIBRARIES[1:])


def _global_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names

"""Every public name says what it is and documents its parameters, all of them and no others."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import types

import pytest
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate

import layershap

MODULES = (
    "layershap",
    "layershap.baselines",
    "layershap.calibration",
    "layershap.comparison",
    "layershap.compensation",
    "layershap.datasets",
    "layershap.display",
    "layershap.interop",
    "layershap.protocols",
    "layershap.report",
    "layershap.samplers",
    "layershap.selection",
    "layershap.shapley",
    "layershap.surrogates",
    "layershap.targets",
    "layershap.tasks",
    "layershap.testing",
    "layershap.utilities",
)
# numpydoc's names of what is checked: undocumented and unknown parameters, their order, descriptions that are missing,
# don't begin with a capital or don't end in a full stop, no docstring, a summary that is no sentence in one paragraph,
# no Returns section where something is returned.
CHECKED = {"PR01", "PR02", "PR03", "PR07", "PR08", "PR09", "PR10", "GL08", "SS03", "RT01"}


def public_names():
    """Classes, functions and public methods, each once."""
    seen = set()
    for module in MODULES:
        room = importlib.import_module(module)
        own = [n for n, v in vars(room).items() if getattr(v, "__module__", "") == module and not n.startswith("_")]
        for name in getattr(room, "__all__", own):
            found = getattr(room, name)
            if not (inspect.isclass(found) or inspect.isfunction(found)) or found in seen:
                continue
            seen.add(found)
            yield f"{module}.{name}"
            if inspect.isclass(found):
                kinds = types.FunctionType | classmethod | staticmethod
                methods = (n for n, member in vars(found).items() if isinstance(member, kinds) and n[0] != "_")
                yield from (f"{module}.{name}.{method}" for method in methods)


def problems(name):
    """What numpydoc objects to; fields of a dataclass are documented as its attributes."""
    found = validate(name)
    errors = {code: message for code, message in found["errors"] if code in CHECKED}
    target = layershap
    for part in name.split(".")[1:]:
        target = getattr(target, part, None) or importlib.import_module(f"layershap.{part}")
    if inspect.isclass(target) and getattr(target, "_is_protocol", False):
        # A protocol is never constructed: Python gives it an `__init__(*args, **kwargs)`.
        errors.pop("PR01", None)
    words = set(re.findall(r"\w+", inspect.getdoc(target) or ""))
    has_section = bool(NumpyDocString(inspect.getdoc(target) or "")["Parameters"])
    if not has_section or inspect.ismethod(target):
        # Without a section the summary says what is returned; a class method returns an instance of its class.
        errors.pop("RT01", None)
    if "PR01" in errors and inspect.isroutine(target) and not has_section:
        # A short docstring that speaks of every parameter needs no section.
        unspoken = set(inspect.signature(target).parameters) - {"self", "cls"} - words
        if not unspoken:
            del errors["PR01"]
    if "PR01" in errors and dataclasses.is_dataclass(target):
        listed = {
            part.strip()
            for entry in NumpyDocString(inspect.getdoc(target))["Attributes"]
            for part in entry.name.split(",")
        }
        if {field.name for field in dataclasses.fields(target) if not field.name.startswith("_")} <= listed:
            del errors["PR01"]
    return errors


@pytest.mark.parametrize("name", sorted(public_names()))
def test_parameters_are_documented_and_the_summary_is_a_sentence(name):
    assert problems(name) == {}

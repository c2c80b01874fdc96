"""Sphinx: `make docs` builds docs/_build/html, every warning an error."""

from __future__ import annotations

import importlib
import types
import warnings
from importlib.metadata import version as installed_version
from pathlib import Path

project = "layershap"
author = "The layershap developers"
copyright = "The layershap developers, Apache-2.0"
release = version = installed_version("layershap")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
]

root_doc = "index"
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"layershap {release}"

# Docstrings name parameters and objects alike in single backticks; what is an object becomes a link.
default_role = "autolink"
autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
# A docstring may be one line where the types say the rest; the sections it has must be right.
numpydoc_validation_checks = {"GL06", "GL07", "GL08", "PR02", "PR03", "PR05", "PR10", "SS01", "SS04", "RT04"}
numpydoc_validation_exclude = {r"^layershap\.[A-Z_]+$", r"\.__\w+__$", r"set_\w+_request$"}

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

# Run only where asked (`make docs`); `-D plot_gallery=0` shows the code without running it.
sphinx_gallery_conf = {
    "examples_dirs": str(Path(__file__).parents[1] / "examples"),
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"\.py$",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "backreferences_dir": None,
    "only_warn_on_example_error": False,
}
warnings.filterwarnings("ignore", message=".*FigureCanvasAgg is non-interactive.*")

GENERATED = Path(__file__).parent / "generated"

# Public modules in the order of the API page; a name is listed where it comes first.
MODULES = (
    "layershap",
    "layershap.samplers",
    "layershap.surrogates",
    "layershap.selection",
    "layershap.compensation",
    "layershap.targets",
    "layershap.utilities",
    "layershap.tasks",
    "layershap.protocols",
    "layershap.shapley",
    "layershap.interop",
    "layershap.baselines",
    "layershap.report",
    "layershap.display",
    "layershap.datasets",
    "layershap.testing",
)


def write_command_line() -> None:
    """All commands' --help, for docs/command_line.md."""
    from layershap.cli.main import help_texts

    (GENERATED / "command_line.txt").write_text("\n\n".join(help_texts().values()), encoding="utf-8")


def write_api() -> None:
    """One autosummary per module, of all its public names: nothing public can be missing."""
    text = ["API reference", "=============", ""]
    text += [
        "L layers, M masks, S calibration sequences, T tokens in a sequence. True in a mask: the layer is kept.",
        "",
    ]
    seen: set[int] = set()
    for name in MODULES:
        module = importlib.import_module(name)
        fresh = [n for n in _public_names(module) if id(getattr(module, n)) not in seen]
        seen.update(id(getattr(module, n)) for n in fresh)
        text += [name, "-" * len(name), "", ".. autosummary::", "   :toctree: .", "   :nosignatures:", ""]
        text += [f"   {name}.{n}" for n in fresh] + [""]
    (GENERATED / "api.rst").write_text("\n".join(text), encoding="utf-8")


def _public_names(module: types.ModuleType) -> list[str]:
    """``__all__``, or else the functions and classes that the module itself defines; no modules."""
    defined = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__ and n[0] != "_"]
    names = getattr(module, "__all__", defined)
    return [n for n in names if not isinstance(getattr(module, n), types.ModuleType)]


GENERATED.mkdir(exist_ok=True)
write_command_line()
write_api()

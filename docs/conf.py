"""Sphinx: `make docs` builds docs/_build/html, every warning an error."""

from __future__ import annotations

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


def _write_command_line_help() -> None:
    """All commands' --help, for docs/command_line.md."""
    from layershap.cli.main import help_texts

    target = Path(__file__).parent / "generated" / "command_line.txt"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n\n".join(help_texts().values()), encoding="utf-8")


_write_command_line_help()

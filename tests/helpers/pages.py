"""Pages of the documentation, followed as they stand."""

from __future__ import annotations

import re
import shlex
import sys
import types
from pathlib import Path

from layershap.cli import main

DOCS = Path(__file__).parents[2] / "docs"


def follow(page: str) -> dict[str, object]:
    """Run the page's ``python`` blocks in one namespace and its ``sh`` lines through the command line, in order."""
    # A module of its own, so that what the page defines can be pickled.
    name = page.removesuffix(".md")
    module = sys.modules[name] = types.ModuleType(name)
    names = vars(module)
    for language, code in re.findall(
        r"^```(python|sh)\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL
    ):
        if language == "python":
            exec(compile(code, page, "exec"), names)
            continue
        for line in code.strip().splitlines():
            program, *arguments = shlex.split(line)
            assert program == "layershap"
            assert main(arguments) == 0, line
    return names

"""The command line: a thin argparse layer over the library.

Each command is a module with ``add_parser`` (its options) and ``run`` (arguments -> `CommandResult`); `main` prints the
answer as text or JSON. What a command says beside its answer (progress, warnings, errors) goes to stderr.
"""

from layershap.cli.main import main

__all__ = ["main"]

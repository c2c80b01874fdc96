"""The parser, and how a command's outcome becomes output and an exit code."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version

# The commands import torch and transformers when they run: help, version and wrong usage need not wait for them.
from layershap.cli import baselines, evaluate, fit, ledger, prune, report
from layershap.cli.arguments import CommandParser, UsageError, in_options
from layershap.cli.result import CommandResult
from layershap.exceptions import LayerShapError
from layershap.ranks.launched import is_first_rank

_COMMANDS = (fit, prune, evaluate, baselines, report, ledger)

_SHARED = ("fit", "baselines")
"""Commands whose masks several processes evaluate together; of the others only the first of them does the work."""

_DESCRIPTION = """\
Prune whole layers of a causal language model by their Shapley values.

From a model folder and a text file to a smaller model and a report with pictures:

  layershap fit MODEL --text calibration.txt --out run
  layershap prune MODEL --report run/report.json --n-remove 4 --out small
  layershap evaluate MODEL small --text held-out.txt
  layershap report run/report.json --model MODEL --pruned small --text held-out.txt --html run/report.html

MODEL is a folder with a transformers checkpoint, a name on the Hugging Face Hub, or 'bundled' for the small trained
GPT-2 that comes with the package.
"""

_EXIT_CODES = "exit codes: 0 done, 1 failed (the reason is on stderr), 2 wrong usage, 130 interrupted"


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = CommandParser(
        prog="layershap",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"layershap {version('layershap')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in _COMMANDS:
        command = module.add_parser(commands)
        command.set_defaults(run=module.run)
        command.add_argument("--format", choices=("text", "json"), default="text", help="of what is printed")
        command.add_argument("--traceback", action="store_true", help="show where an error came from")
    return parser


def help_texts() -> dict[str, str]:
    """``--help`` of the program and of each command, by command; the program's is under ""."""
    parser = build_parser()
    return {"": parser.format_help()} | {name: each.format_help() for name, each in _subcommands(parser).items()}


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by the command's name."""
    (found,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        The exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if not is_first_rank() and arguments.command not in _SHARED:
        return 0
    worded = partial(in_options, parsers=list(_subcommands(parser).values()))
    try:
        with _messages_to_stderr(worded):
            answer = arguments.run(arguments)
    except KeyboardInterrupt:
        print("interrupted; a fit's evaluated masks are kept, the same command resumes", file=sys.stderr)
        return 130
    except (LayerShapError, ValueError, TypeError, OSError) as error:
        if arguments.traceback:
            raise
        # What the system says of files stays as it is.
        said = str(error) if isinstance(error, OSError) else worded(str(error))
        print(f"layershap {arguments.command}: error: {said}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return _print(answer, arguments.format) if is_first_rank() else 0


def _print(answer: CommandResult, form: str) -> int:
    from layershap.report.store import to_plain

    text = json.dumps(to_plain(answer.data), indent=1, allow_nan=False) if form == "json" else answer.text
    # A name that the terminal has no characters for must not cost the answer.
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        # Whoever reads (`head`, a closed pager) has enough; Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


@contextmanager
def _messages_to_stderr(worded: Callable[[str], str]) -> Iterator[None]:
    """Show the messages of this library, not of those below it, each on a line without its place in the code.

    Those of warnings are `worded` for the command line.
    """
    import transformers

    logger, handler = logging.getLogger("layershap"), _ToStandardError()
    level, show_warning = logger.level, warnings.showwarning
    # One bar, that of the fit, is enough; transformers shows one for every file it reads or writes.
    transformers.utils.logging.disable_progress_bar()
    logger.setLevel(logging.INFO if is_first_rank() else logging.ERROR)
    logger.addHandler(handler)

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        print(f"{category.__name__}: {worded(str(message))}", file=sys.stderr)

    warnings.showwarning = show if is_first_rank() else _hide_warning
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        warnings.showwarning = show_warning


class _ToStandardError(logging.Handler):
    """Writes to what standard error is when something is logged: a caller may have set it to another stream since."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message on a line of its own."""
        print(self.format(record), file=sys.stderr)


def _hide_warning(*_: object, **__: object) -> None:
    """Another process, which does the same, shows it."""

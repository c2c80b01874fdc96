"""Calibration data from the command line: texts, chats, or prompts that the model answers itself."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Literal

from layershap.cli.arguments import UsageError, at_least, path
from layershap.cli.files import read_chats, read_prompts, read_texts

if TYPE_CHECKING:
    from layershap import Calibration

_SEQ_LEN, _CHAT_TOKENS, _ANSWER_TOKENS = 128, 512, 64
"""Defaults of `Calibration.from_texts`, `chat_answers` and `own_answers`."""

_CUTS = ("--seq-len", "--n-sequences", "--bos", "--answer-tokens")
"""Options of how data becomes sequences."""

_TAKES = {
    "--text": ("--seq-len", "--n-sequences", "--bos"),
    "--chats": ("--seq-len", "--n-sequences"),
    "--own-answers": ("--answer-tokens", "--n-sequences"),
}
"""Those that say something of each kind of data."""


def add_calibration_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that fits."""
    group = parser.add_argument_group("calibration")
    add_source_options(group, required=True)
    group.add_argument("--seed", type=at_least(0), default=0, help="of everything random (default: 0)")


def add_source_options(group: argparse._ArgumentGroup, *, required: bool) -> None:
    """Where calibration data comes from, one of three kinds, and how it becomes sequences."""
    sources = group.add_mutually_exclusive_group(required=required)
    sources.add_argument("--text", nargs="+", type=path, metavar="FILE", help="calibration text: .txt, .json or .jsonl")
    sources.add_argument(
        "--chats",
        nargs="+",
        type=path,
        metavar="FILE",
        help=(
            "chats, one to a sequence, of which only the assistant's answers are scored: .jsonl or .json, of objects "
            "with 'messages' or of lists of messages"
        ),
    )
    sources.add_argument(
        "--own-answers",
        nargs="+",
        type=path,
        metavar="FILE",
        help=(
            "prompts; the model's own greedy answers to them are scored: .txt (a prompt a line), .json or .jsonl "
            "(texts, or objects with 'prompt' or 'messages')"
        ),
    )
    group.add_argument(
        "--seq-len",
        type=at_least(1),
        metavar="T",
        help=f"tokens per sequence (default: {_SEQ_LEN}); of --chats, the most of a chat: {_CHAT_TOKENS}",
    )
    group.add_argument(
        "--n-sequences",
        type=at_least(1),
        metavar="S",
        help=(
            "sequences, or prompts of --own-answers, at even distances (default: as many as there are, but for prompts "
            "up to 128)"
        ),
    )
    group.add_argument(
        "--bos",
        choices=("none", "text", "sequence"),
        help="where a BOS token goes in text (default: none)",
    )
    group.add_argument(
        "--answer-tokens",
        type=at_least(1),
        metavar="N",
        help=f"tokens of an own answer, at most (default: {_ANSWER_TOKENS})",
    )


def calibration_source(arguments: argparse.Namespace) -> str | None:
    """Which option of `add_source_options` gives the data; None where there is none."""
    return next((option for option in _TAKES if getattr(arguments, _name(option))), None)


def idle_options(arguments: argparse.Namespace) -> list[str]:
    """Options given that say nothing of the kind of data that is given."""
    source = calibration_source(arguments)
    taken = () if source is None else _TAKES[source]
    return [name for name in _CUTS if getattr(arguments, _name(name)) is not None and name not in taken]


def check_calibration_options(arguments: argparse.Namespace) -> None:
    """Raise, before a model is loaded, where the options of `add_source_options` can't be met.

    Raises
    ------
    UsageError
        An option says nothing of the kind of data that is given; the message names all such.
    OSError, ValueError, TypeError
        A file can't be read, or holds something else.
    """
    source = calibration_source(arguments)
    if source is None:
        return
    idle = idle_options(arguments)
    if idle:
        taken = ", ".join(sorted(_TAKES[source]))
        raise UsageError(f"{' and '.join(idle)} can't be given with {source}, which takes {taken}")
    _rows(arguments)


def read_calibration(arguments: argparse.Namespace, tokenizer: Any, model: Any) -> Calibration:
    """Calibration data, by the options of `add_source_options`; the model is asked for its own answers only.

    Raises
    ------
    OSError, ValueError, TypeError
        A file can't be read, or holds something else; or the tokenizer has no chat template.
    """
    from layershap.calibration import Calibration, chat_answers, own_answers

    source, rows = calibration_source(arguments), _rows(arguments)
    n_sequences: int | Literal["auto"] = arguments.n_sequences or "auto"
    if source == "--own-answers":
        max_new_tokens = arguments.answer_tokens or _ANSWER_TOKENS
        return own_answers(model, rows, tokenizer, max_new_tokens=max_new_tokens, n_sequences=n_sequences)
    if source == "--chats":
        return chat_answers(rows, tokenizer, max_length=arguments.seq_len or _CHAT_TOKENS, n_sequences=n_sequences)
    return Calibration.from_texts(
        rows,
        tokenizer,
        seq_len=arguments.seq_len or _SEQ_LEN,
        n_sequences=n_sequences,
        bos=arguments.bos or "none",
    )


def _rows(arguments: argparse.Namespace) -> list[Any]:
    """What the files hold: texts, chats or prompts, those of the first file first."""
    if arguments.chats:
        return read_chats(arguments.chats)
    if arguments.own_answers:
        return [prompt for file in arguments.own_answers for prompt in read_prompts(file)]
    return read_texts(arguments.text)


def _name(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")

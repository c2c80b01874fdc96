"""Calibration data from the command line: texts, chats, or prompts that the model answers itself."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from layershap.cli.arguments import UsageError, at_least, path
from layershap.cli.files import read_chats, read_prompts, read_texts

if TYPE_CHECKING:
    from layershap import Calibration

_SEQ_LEN, _CHAT_TOKENS, _ANSWER_TOKENS = 128, 512, 64
"""Defaults of `Calibration.from_texts`, `chat_answers` and `own_answers`."""


def add_calibration_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that fits."""
    group = parser.add_argument_group("calibration")
    sources = group.add_mutually_exclusive_group(required=True)
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
        type=path,
        metavar="FILE",
        help=(
            "prompts; the model's own greedy answers to them are scored: .txt (a prompt a line), .json or .jsonl "
            "(texts, or objects with 'prompt' or 'messages')"
        ),
    )
    add_sequence_options(group, text_only=False)
    group.add_argument(
        "--answer-tokens",
        type=at_least(1),
        metavar="N",
        help=f"tokens of an own answer, at most (default: {_ANSWER_TOKENS})",
    )
    group.add_argument("--seed", type=at_least(0), default=0, help="of everything random (default: 0)")


def add_sequence_options(group: argparse._ArgumentGroup, *, text_only: bool = True) -> None:
    """How calibration text is cut into sequences, and chats where there may be some."""
    chats = "" if text_only else f"; of --chats, the most of a chat: {_CHAT_TOKENS}"
    group.add_argument(
        "--seq-len", type=at_least(1), metavar="T", help=f"tokens per sequence (default: {_SEQ_LEN}{chats})"
    )
    group.add_argument(
        "--n-sequences",
        type=at_least(1),
        metavar="S",
        help="sequences, at even distances (default: as many as there are, up to 128)",
    )
    group.add_argument(
        "--bos",
        choices=("none", "text", "sequence"),
        help="where a BOS token goes in text (default: none)",
    )


def check_calibration_options(arguments: argparse.Namespace) -> None:
    """Raise where an option of `add_calibration_options` says nothing of the kind of data that is given.

    Raises
    ------
    UsageError
        There is one; the message names all of them.
    """
    given = {
        "--seq-len": arguments.seq_len,
        "--n-sequences": arguments.n_sequences,
        "--bos": arguments.bos,
        "--answer-tokens": arguments.answer_tokens,
    }
    if arguments.chats is not None:
        kind, taken = "--chats", {"--seq-len", "--n-sequences"}
    elif arguments.own_answers is not None:
        kind, taken = "--own-answers", {"--answer-tokens"}
    else:
        kind, taken = "--text", {"--seq-len", "--n-sequences", "--bos"}
    idle = [name for name, value in given.items() if value is not None and name not in taken]
    if idle:
        raise UsageError(f"{' and '.join(idle)} can't be given with {kind}, which takes {', '.join(sorted(taken))}")


def read_calibration(arguments: argparse.Namespace, tokenizer: Any, model: Any = None) -> Calibration:
    """Calibration data, by the options of `add_calibration_options`, or by ``--text`` and `add_sequence_options`.

    The model is asked for its own answers only.

    Raises
    ------
    OSError, ValueError, TypeError
        A file can't be read, or holds something else; or the tokenizer has no chat template.
    """
    from layershap.calibration import Calibration, chat_answers, own_answers

    chats, prompts = getattr(arguments, "chats", None), getattr(arguments, "own_answers", None)
    if chats is not None:
        return chat_answers(
            read_chats(chats),
            tokenizer,
            max_length=arguments.seq_len or _CHAT_TOKENS,
            n_sequences=arguments.n_sequences or "auto",
        )
    if prompts is not None:
        new_tokens = arguments.answer_tokens or _ANSWER_TOKENS
        return own_answers(model, read_prompts(prompts), tokenizer, max_new_tokens=new_tokens)
    return Calibration.from_texts(
        read_texts(arguments.text),
        tokenizer,
        seq_len=arguments.seq_len or _SEQ_LEN,
        n_sequences=arguments.n_sequences or "auto",
        bos=arguments.bos or "none",
    )

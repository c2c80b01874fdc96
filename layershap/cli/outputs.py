"""Where commands write: nothing that exists is replaced unasked, and everything is checked before work begins."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = ".layershap-partial-"

# What saving a model, its tokenizer and its card writes. --overwrite deletes these and nothing else.
_OF_A_CHECKPOINT = re.compile(
    r".*\.(safetensors|bin|model|tiktoken|jinja)|.*\.(safetensors|bin)\.index\.json|vocab.*|merges\.txt|tokenizer.*|"
    r"(config|generation_config|special_tokens_map|added_tokens|chat_template|(pre)?processor_config|layershap_recipe)"
    r"\.json|README\.md"
)


def check_file(path: Path, overwrite: bool) -> None:
    """Raise unless `path` can be written, before the work whose result it is to hold.

    Raises
    ------
    ValueError
        It exists and is not to be overwritten, or is a folder.
    OSError
        Its folder can't be made or written to.
    """
    if path.is_dir():
        raise ValueError(f"{path} must be a file to write, it is a folder")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: name another file, or give --overwrite to replace it")
    check_folder(path.parent)


def check_folder(path: Path) -> None:
    """Raise unless `path` is a folder that can be written to, or can be made.

    Raises
    ------
    OSError
        It can't.
    """
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"{path} must be a folder to write to, {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} must be a folder to write to, {nearest} can't be written to")


def check_checkpoint_folder(folder: Path, source: str, overwrite: bool) -> None:
    """Raise unless a model made of `source` can be written to `folder` and will be alone there.

    Raises
    ------
    ValueError
        It is the folder of `source` itself; it holds files and is not to be overwritten, or holds what is no part of
        a checkpoint.
    OSError
        It can't be made or written to.
    """
    check_folder(folder)
    if not folder.is_dir():
        return
    if Path(source).is_dir() and folder.samefile(source):
        raise ValueError(f"--out {folder} must be another folder than the model's: the original would be lost")
    held = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(_PARTIAL))
    if held and not overwrite:
        raise ValueError(
            f"--out {folder} must be a new or empty folder, it holds {_some(held)}: name another, or give --overwrite "
            "to replace a checkpoint"
        )
    foreign = [name for name in held if (folder / name).is_dir() or not _OF_A_CHECKPOINT.fullmatch(name)]
    if foreign:
        raise ValueError(
            f"--overwrite replaces a checkpoint, and --out {folder} holds what is no part of one: {_some(foreign)}. "
            "Name another folder"
        )


@contextmanager
def checkpoint_folder(folder: Path) -> Iterator[Path]:
    """A folder to save a checkpoint in, whose files take the place of those in `folder` once all are written.

    The config goes first and comes last: whenever this is interrupted, `folder` holds the old checkpoint, the new one,
    or one that doesn't load.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(leftover)
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder))
    try:
        yield partial
        old = [entry for entry in folder.iterdir() if _OF_A_CHECKPOINT.fullmatch(entry.name) and not entry.is_dir()]
        for file in sorted(old, key=_not_the_config):
            file.unlink()
        for new in sorted(partial.iterdir(), key=_not_the_config, reverse=True):
            new.replace(folder / new.name)
    finally:
        shutil.rmtree(partial)
        if made and not any(folder.iterdir()):
            folder.rmdir()


def _not_the_config(file: Path) -> bool:
    return file.name != "config.json"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

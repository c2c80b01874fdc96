"""Readers of files fed with damaged ones: they read them, or say what is wrong in an error of their own.

A few hundred inputs each here; a quarter of a million each in the long run (``-m slow``).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from layershap import LayerGame, LayerPruner, PruningReport, ShapleyRanking, remove_sublayers, save_pruned
from layershap.exceptions import LayerShapError
from layershap.ledger import Ledger, RowShape, read_ledger
from layershap.shapley import all_masks
from layershap.surgery.recipe_file import RECIPE_FILE, read_recipe
from layershap.targets import parse_target

FEW, MANY = 300, 250_000
EXPECTED = (LayerShapError, ValueError)
"""What a reader may raise; neither a KeyError nor a RecursionError is among them."""


@pytest.fixture(scope="module")
def files(stories, stories_calibration, tmp_path_factory):
    """A whole file of each kind: its bytes, its name, and its reader."""
    folder = tmp_path_factory.mktemp("readers")
    ledger = folder / "ledger.jsonl"
    with LayerGame(stories[0], stories_calibration, ledger=ledger) as game:
        game(all_masks(5)[-6:])
        shape = RowShape(5, tuple(stories_calibration.counts_S.tolist()), ("nll",))
        fingerprint = game.fingerprint
    pruner = LayerPruner(n_masks=15, selector=ShapleyRanking(), random_state=0).fit(stories[0], stories_calibration)
    report = pruner.report_.save(folder / "report.json")
    save_pruned(remove_sublayers(stories[0], [1, 4]), folder / "model")

    def resumed(path: Path) -> None:
        with Ledger(path, fingerprint, shape):
            pass

    return {
        "ledger": (ledger.read_bytes(), ledger.name, resumed),
        "recorded": (ledger.read_bytes(), ledger.name, read_ledger),
        "report": (report.read_bytes(), report.name, PruningReport.load),
        "recipe": ((folder / "model" / RECIPE_FILE).read_bytes(), RECIPE_FILE, lambda path: read_recipe(path.parent)),
        "target": (b"decode_latency<=20ms,batch=8,prompt=512", "target.txt", lambda p: parse_target(text_of(p))),
    }


def text_of(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


TOKENS = [b"null", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'""', b"true", b"\xff", b"\x00", b"9" * 40, b"[" * 2000]


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Some of it altered, lost, repeated or moved; or a value of its JSON replaced by another."""
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        start = rng.randrange(len(found) + 1)
        stop = min(len(found), start + rng.choice([1, 1, 3, 20, 200]))
        kind = rng.randrange(6)
        if kind == 0 and start < len(found):
            found[start] = rng.randrange(256)
        elif kind == 1:
            del found[start:stop]
        elif kind == 2:
            found[start:start] = found[start:stop]
        elif kind == 3:
            found[start:stop] = rng.choice(TOKENS)
        elif kind == 4:
            del found[start:]
        else:
            found = bytearray(replaced(bytes(found), rng))
        if not found:
            break
    return bytes(found)


def replaced(content: bytes, rng: random.Random) -> bytes:
    """A value somewhere in a JSON text replaced, which a damaged byte seldom does and still leaves JSON."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return content
    place, path = value, []
    while isinstance(place, dict | list) and place:
        path.append(rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place)))
        if rng.random() < 0.2:
            break
        place = place[path[-1]]
    if not path:
        return content
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = rng.choice([None, -1, 2**70, 1e308, "", "x", [], {}, True, [[]], {"a": 1}, "../up", "a" * 5000])
    return json.dumps(value).encode()


def feed(content: bytes, path: Path, read: Callable[[Path], object], count: int) -> int:
    """Damaged files, of which some are read; how many."""
    rng = random.Random(0)
    read_well = 0
    for number in range(count):
        bad = damaged(content, rng)
        path.write_bytes(bad)
        try:
            read(path)
            read_well += 1
        except EXPECTED:
            pass
        except BaseException as error:
            raise AssertionError(f"input {number}: {type(error).__name__}: {error}\n{bad[:400]!r}") from error
    return read_well


KINDS = ("ledger", "recorded", "report", "recipe", "target")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(files, tmp_path, kind):
    content, name, read = files[kind]
    (tmp_path / name).write_bytes(content)
    read(tmp_path / name)
    assert feed(content, tmp_path / name, read, FEW) < FEW


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_quarter_of_a_million_damaged_files_each(files, tmp_path, kind):
    content, name, read = files[kind]
    assert feed(content, tmp_path / name, read, MANY) < MANY

"""The ledger as a file: nothing in it is lost, whatever happens to it, and nothing that was altered is believed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from layershap import LedgerError, LedgerFormatError, LedgerInUseError, LedgerMismatchError
from layershap.ledger import Ledger, RowShape
from layershap.ledger import lock as lock_module
from layershap.masks import mask_key

SHAPE = RowShape(n_players=4, counts=(7, 8, 9), statistics=("nll",))
FINGERPRINT = {"weights": "abc", "statistics": ["nll"]}
SWEEPS = [[0, 1], [2, 3, 4], [5]]


def row(number):
    mask_L = np.array([int(bit) for bit in f"{number:04b}"], dtype=bool)
    return mask_L, {"nll": np.array([number, np.nan, number / 3])}


def ledger(path, **changes):
    return Ledger(path, {**FINGERPRINT, **changes}, SHAPE)


@pytest.fixture
def written(tmp_path):
    """A ledger of three sweeps."""
    path = tmp_path / "l.jsonl"
    with ledger(path) as file:
        for sweep in SWEEPS:
            file.append([row(number) for number in sweep])
    return path


def numbers(file):
    found = {key: i for i in range(16) for key in [mask_key(row(i)[0])]}
    for key, kept in file.rows.items():
        assert kept["nll"].tobytes() == row(found[key])[1]["nll"].tobytes()
    return sorted(found[key] for key in file.rows)


def test_rows_read_back_bit_for_bit_and_reading_changes_nothing(written):
    before = written.read_bytes()
    with ledger(written) as file:
        assert numbers(file) == [0, 1, 2, 3, 4, 5]
    assert written.read_bytes() == before
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_a_line_that_was_cut_anywhere_counts_as_not_evaluated(written):
    content = written.read_bytes()
    ends = np.cumsum([len(line) for line in content.splitlines(keepends=True)])
    for size in range(int(ends[0]), len(content)):
        written.write_bytes(content[:size])
        whole = int((ends[1:] <= size).sum())
        with ledger(written) as file:
            assert numbers(file) == list(range(whole))
            assert written.read_bytes() == content[:size]
            file.append([row(number) for number in range(whole, 6)])
        assert written.read_bytes() == content


def test_a_header_that_was_cut_is_written_again(written):
    header = written.read_bytes().splitlines(keepends=True)[0]
    for size in (0, 1, 20, len(header) - 1):
        written.write_bytes(header[:size])
        ledger(written).close()
        assert written.read_bytes() == header


@pytest.mark.parametrize(
    "content",
    [b'{"a": 1}', b"\x00\x01\x02" * 50, b"notes\n", b"notes\nwithout an end", b"[1, 2]\n", b"\n", b"{}"],
)
def test_a_file_that_is_no_ledger_stays_as_it_is(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(LedgerFormatError, match=r"config\.json is not a ledger: its line 1"):
        ledger(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def replaced(line, old, new):
    assert old in line
    return line.replace(old, new)


DAMAGE = {
    "a score altered": lambda lines: [*lines[:3], replaced(lines[3], b"2.0", b"1.0"), *lines[4:]],
    "a mask altered": lambda lines: [*lines[:3], replaced(lines[3], b"0010", b"1010"), *lines[4:]],
    "an infinity": lambda lines: [*lines[:3], replaced(lines[3], b"2.0", b"Infinity"), *lines[4:]],
    "beyond float": lambda lines: [*lines[:3], replaced(lines[3], b"2.0", b"1" + b"0" * 40), *lines[4:]],
    "a blank line": lambda lines: [*lines[:3], b"\n", *lines[3:]],
    "no text": lambda lines: [*lines[:3], b"\xff\xfe\n", *lines[3:]],
    "nested without end": lambda lines: [*lines[:3], b"[" * 300 + b"\n", *lines[3:]],
    "a line lost": lambda lines: [*lines[:3], *lines[4:]],
    "a line twice": lambda lines: [*lines[:3], lines[2], *lines[3:]],
    "two lines swapped": lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
    "two headers": lambda lines: [*lines[:3], lines[0], *lines[3:]],
    "two ledgers": lambda lines: [*lines[:3], *lines],
    "half a line glued to a whole one": lambda lines: [*lines[:3], lines[3][:20] + lines[3], *lines[4:]],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_by_file_and_line_and_nothing_is_lost(written, damage):
    lines = DAMAGE[damage](written.read_bytes().splitlines(keepends=True))
    written.write_bytes(b"".join(lines))
    with pytest.raises(LedgerFormatError, match=r"line 4 of the ledger .*l\.jsonl") as caught:
        ledger(written)
    assert written.read_bytes() == b"".join(lines)
    # The message says how much is good; cut there, the rest resumes.
    good = int(str(caught.value).split("first ")[1].split(" bytes")[0])
    os.truncate(written, good)
    with ledger(written) as file:
        assert numbers(file) == [0, 1]


def test_a_row_of_another_shape_is_named_though_its_check_is_right(tmp_path):
    path = tmp_path / "l.jsonl"
    with Ledger(path, FINGERPRINT, RowShape(5, (7, 8, 9), ("nll",))) as file:
        file.append([(np.ones(5, dtype=bool), {"nll": np.zeros(3)})])
    with pytest.raises(LedgerFormatError, match=r"line 2 of the ledger .*a mask is 4 digits"):
        ledger(path)
    with pytest.raises(LedgerFormatError, match=r"line 2 .*'nll' has shape \(3,\) for 2 sequences"):
        Ledger(path, FINGERPRINT, RowShape(5, (7, 8), ("nll",)))
    with pytest.raises(LedgerFormatError, match=r"line 2 .*a row holds mask and"):
        Ledger(path, FINGERPRINT, RowShape(5, (7, 8, 9), ("kl",)))


def test_a_huge_line_is_not_read(written):
    with open(written, "ab") as file:
        file.truncate(2**32)  # a sparse file: 4 GiB of zeros without a newline
    with pytest.raises(LedgerFormatError, match=r"line 8 of the ledger .*longer than a row can be"):
        ledger(written)
    assert written.stat().st_size == 2**32


def test_older_and_later_formats_are_refused(written):
    content = written.read_bytes()
    written.write_bytes(b'{"layershap_ledger": 1, "fingerprint": {"weights": "abc"}}\n')
    with pytest.raises(LedgerFormatError, match=r"line 1 .*older version.*start a new file"):
        ledger(written)
    written.write_bytes(content)
    from layershap.ledger.lines import encode

    written.write_bytes(encode({"layershap_ledger": 2, "fingerprint": {}, "settings": {}}, "")[0])
    with pytest.raises(LedgerFormatError, match="older version, whose scores depended on the masks"):
        ledger(written)
    written.write_bytes(encode({"layershap_ledger": 4, "fingerprint": {}}, "")[0])
    with pytest.raises(LedgerFormatError, match="format 3, it is of 4"):
        ledger(written)


@pytest.mark.parametrize("special", ["/dev/null", "/dev/full", "fifo", "folder"])
def test_only_a_regular_file_is_taken(tmp_path, special):
    path = special if special.startswith("/") else tmp_path / special
    if special == "fifo":
        os.mkfifo(path)
    elif special == "folder":
        path.mkdir()
    with pytest.raises(LedgerError, match="must be a regular file"):
        ledger(path)


def test_the_home_folder_and_missing_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    ledger("~/runs/first/l.jsonl").close()
    assert (tmp_path / "runs" / "first" / "l.jsonl").is_file()


def test_a_ledger_in_use_names_its_holder(written):
    with ledger(written):
        assert json.loads((written.parent / "l.jsonl.lock").read_text())["pid"] == os.getpid()
        for _ in range(2):  # a refusal doesn't take the holder's note away
            with pytest.raises(LedgerInUseError, match=f"process {os.getpid()} on .*this process") as caught:
                ledger(written)
            assert not isinstance(caught.value, LedgerMismatchError)
    ledger(written).close()


@pytest.mark.parametrize("content", ["", "[[package]]", "[1, 2]", '{"pid": 1}', "[" * 5000])
def test_a_file_that_has_the_notes_name_is_not_touched(tmp_path, content):
    """Other programs have locks of their own: ``ledger="poetry"`` is beside their ``poetry.lock``."""
    own = tmp_path / "poetry.lock"
    own.write_text(content)
    with ledger(tmp_path / "poetry") as file:
        file.append([row(1)])
        assert own.read_text() == content
        with pytest.raises(LedgerInUseError, match="in use by another process"):
            ledger(tmp_path / "poetry")
    assert own.read_text() == content


def test_the_note_of_a_process_that_was_killed_is_replaced(written):
    note = written.parent / "l.jsonl.lock"
    note.write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with ledger(written):
        assert json.loads(note.read_text())["pid"] == os.getpid()
    assert not note.exists()


class NoLocks:
    """The lock calls of a file system that has none."""

    LOCK_EX = LOCK_NB = 0

    def __init__(self, code):
        self.code = code

    def flock(self, file, operation):
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_it_warns_and_two_writers_are_found(written, monkeypatch, code):
    monkeypatch.setattr(lock_module, "fcntl", NoLocks(code))
    with pytest.warns(UserWarning, match=r"l\.jsonl can't be locked"):
        file, other = ledger(written), ledger(written)
    with file, other:
        other.append([row(9)])
        before = written.read_bytes()
        with pytest.raises(LedgerInUseError, match="changed by something else"):
            file.append([row(10)])
        assert written.read_bytes() == before


def test_a_deleted_ledger_is_written_anew_and_another_file_is_not_touched(written):
    content = written.read_bytes()
    with ledger(written) as file:
        written.unlink()
        with pytest.warns(UserWarning, match="was deleted while in use"):
            file.append([row(6)])
        assert written.read_bytes().startswith(content)
        shutil.rmtree(written.parent)
        with pytest.warns(UserWarning, match="was deleted while in use"):
            file.append([row(7)])
        written.unlink()
        written.write_text("mine")
        with pytest.raises(LedgerError, match="replaced by another file"):
            file.append([row(8)])
        assert written.read_text() == "mine"


def test_the_new_file_of_a_deleted_ledger_is_whole_and_held(written):
    with ledger(written) as file:
        written.unlink()
        with pytest.warns(UserWarning, match="written anew"):
            file.append([row(6)])
        with pytest.raises(LedgerInUseError):
            ledger(written)
    with ledger(written) as file:
        assert numbers(file) == [0, 1, 2, 3, 4, 5, 6]


@contextmanager
def as_nobody():
    """Root may write everywhere: be someone else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_a_read_only_ledger_serves_what_it_holds(written, tmp_path_factory):
    for folder in [written.parent, *written.parent.parents]:
        if folder.owner() == written.owner() and folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o055)
    written.chmod(0o444)
    written.parent.chmod(0o555)
    try:
        with as_nobody(), ledger(written) as file:
            assert numbers(file) == [0, 1, 2, 3, 4, 5]
            with pytest.raises(LedgerError, match="can only be read"):
                file.append([row(6)])
            with pytest.raises(LedgerError, match="can't be opened"):
                ledger(written.parent / "other.jsonl")
    finally:
        written.parent.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits of POSIX")
def test_a_full_disk_leaves_the_file_whole_and_the_ledger_in_use(written):
    import resource
    import signal

    content = written.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit then fails as on a full disk
    try:
        with ledger(written) as file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) + 60, limits[1]))
            for _ in range(2):
                with pytest.raises(LedgerError, match=r"l\.jsonl can't be written .*stays good"):
                    file.append([row(6), row(7)])
                assert written.read_bytes() == content
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            file.append([row(8)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    with ledger(written) as file:
        assert numbers(file) == [0, 1, 2, 3, 4, 5, 8]

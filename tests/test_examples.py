"""Every example runs, and says what it should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

RUNS = {
    "quickstart.py": (["--out", "{out}", "--n-masks", "32"], "largest difference of logits 0.0e+00"),
    "context_dependence.py": (["1", "{out}"], "strongest interaction"),
}


def test_every_example_is_listed():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(RUNS)


@pytest.mark.parametrize("name", sorted(RUNS))
def test_example(name, tmp_path):
    arguments, expected = RUNS[name]
    found = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *[argument.format(out=tmp_path) for argument in arguments]],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )
    assert found.returncode == 0, found.stderr[-3000:]
    assert expected in found.stdout
    assert list(tmp_path.glob("*.png"))


def test_the_optimum_is_never_worse_than_a_rule(tmp_path):
    found = subprocess.run(
        [sys.executable, str(EXAMPLES / "context_dependence.py"), "1", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = re.findall(r"^ +(\d) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) ", found.stdout, flags=re.MULTILINE)
    assert [row[0] for row in rows] == list("12345678")
    for _, *rules, best in rows:
        assert float(best) <= min(map(float, rules))

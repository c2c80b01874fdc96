"""Fetch SmolLM2-135M-Instruct (30 Llama layers, Apache-2.0) as a plain bfloat16 checkpoint.

python scripts/fetch_smollm2.py            # into benchmarks/models/smollm2, which git ignores
python scripts/fetch_smollm2.py FOLDER
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from layershap.datasets import fetch_smollm2

FOLDER = Path(__file__).parent.parent / "benchmarks" / "models" / "smollm2"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, metavar="FOLDER")
    try:
        print(fetch_smollm2(parser.parse_args().folder))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"fetch_smollm2: {error}")

"""Pack the texts that the real-model benchmarks read into `benchmarks/data`.

    python scripts/pack_texts.py --texts FOLDER

`FOLDER` holds `wikitext2-valid.txt`, `wikitext2-raw-test.txt` (WikiText-2, CC BY-SA 3.0, Merity et al., Pointer
sentinel mixture models, 2016) and `c4-sample.txt` (C4, ODC-BY, Raffel et al., 2020). `benchmarks/data/README.md` says
so too.
"""

from __future__ import annotations

import argparse
import lzma
from pathlib import Path

DATA = Path(__file__).parent.parent / "benchmarks" / "data"
TEXTS = ("wikitext2-valid.txt", "wikitext2-raw-test.txt", "c4-sample.txt")
CHARACTERS = 1_300_000
"""At most, of each text: all of WikiText-2's validation and test."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, required=True)
    for name in TEXTS:
        text = (parser.parse_args().texts / name).read_text(encoding="utf-8")
        kept = text[:CHARACTERS].rsplit("\n", 1)[0] if len(text) > CHARACTERS else text
        out = DATA / f"{name}.xz"
        with lzma.open(out, "wt", preset=9 | lzma.PRESET_EXTREME, encoding="utf-8") as file:
            file.write(kept)
        print(f"{out}: {len(kept)} of {len(text)} characters, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()

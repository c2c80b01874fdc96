"""Pack the training books into the compressed file that `train_benchmark_models.py` reads.

    python scripts/pack_books.py --books BOOKS

`BOOKS` is the folder of Markdown books that `train_tiny_gpt2.py` reads. The calibration and evaluation books are left
out. One line per book: its title and its chapters as plain text. All are in the public domain.
"""

from __future__ import annotations

import argparse
import json
import lzma
from pathlib import Path

from training import CALIBRATION_BOOKS, EVALUATION_BOOKS, TRAINING_BOOKS, read_books


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--books", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=TRAINING_BOOKS)
    args = parser.parse_args()
    books = read_books(args.books)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(args.out, "wt", preset=9 | lzma.PRESET_EXTREME, encoding="utf-8") as out:
        for title, texts in books.items():
            if title not in CALIBRATION_BOOKS + EVALUATION_BOOKS:
                out.write(json.dumps({"title": title, "chapters": texts}, ensure_ascii=False) + "\n")
                print(f"{title}: {len(texts)} chapters, {sum(map(len, texts))} characters")
    print(f"{args.out}: {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()

"""Removed sets of published and bundled models with what they score, and the scoring of a set that someone submits.

    python -m benchmarks.leaderboard.leaderboard score --model gpt2 --removed 2 4
    python -m benchmarks.leaderboard.leaderboard score --model gpt2 --submission sets.json --add
    python -m benchmarks.leaderboard.leaderboard collect --model gpt2       # from the records of real_model.compare
    python -m benchmarks.leaderboard.leaderboard games                      # from data/values, in shapiq's format
    python -m benchmarks.leaderboard.leaderboard table --write docs/leaderboard.md

`score` needs the model: SmolLM2 is fetched by `scripts/fetch_smollm2.py`. `collect` keeps the submitted sets that are
in the file, and writes all others anew.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.common import device, print_or_write, provenance
from benchmarks.leaderboard.board import FOLDER, Board, models
from benchmarks.leaderboard.collecting import COMMAND, collected
from benchmarks.leaderboard.games import best_removals, write_games
from benchmarks.leaderboard.page import page
from benchmarks.leaderboard.scoring import Submission, compared, entry_of, with_entry
from benchmarks.real_model.compare import TITLES
from benchmarks.real_model.subject import Subject

N_LAYERS = {"gpt2": 12, "smollm2": 30}
EXACT = "best of all coalitions on 10 sequences (exact)"


def score(options: argparse.Namespace) -> None:
    board = Board.read(options.model, options.folder)
    subject = Subject.load(options.model, 0, options.device)
    for submission in submissions(options):
        for removed in submission.sets:
            scores = compared(board, subject, removed)
            print(f"{submission.method}, without layers {' '.join(map(str, removed))}:")
            print("".join(f"  {found}\n" for found in scores), flush=True)
            board = with_entry(board, entry_of(submission, removed, scores))
            if options.add:
                board.write(options.folder)


def submissions(options: argparse.Namespace) -> list[Submission]:
    """What is to be scored: a file, a set, the optima of a game."""
    found = [Submission.read(path) for path in options.submission]
    if options.removed:
        found.append(Submission("submitted", "", [sorted(options.removed)]))
    if options.exact:
        most = max(Board.read(options.model, options.folder).sizes())
        sets = [removed for n, removed in best_removals(options.model).items() if n <= most]
        found.append(Submission(EXACT, "Treasure Island, the game's 10 sequences", sets))
    if not found:
        raise SystemExit("give --removed LAYER ..., --submission FILE or --exact")
    return found


def collect(options: argparse.Namespace) -> None:
    told = {"note": options.note, "calibrated_on": options.calibrated_on}
    n_layers = options.n_layers or N_LAYERS.get(options.model)
    if n_layers is None:
        raise SystemExit(f"--n-layers must say how many layers {options.model} has")
    board = collected(options.model, TITLES.get(options.model, options.model), n_layers, options.draw, told)
    if options.model in models(options.folder):
        old = Board.read(options.model, options.folder)
        submitted = [entry for entry in old.entries if entry.command != COMMAND]
        board = replace(board, entries=[*board.entries, *submitted])
    board.write(options.folder)
    print(f"{options.model}: {len(board.entries)} sets, {len(board.measures)} measures")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["score", "collect", "games", "table"])
    parser.add_argument("--model", default="smollm2", help="smollm2, gpt2, or a folder with a checkpoint")
    parser.add_argument("--removed", type=int, nargs="+", help="layers of a set to score, counted from 0")
    parser.add_argument("--submission", type=Path, nargs="+", default=[], help="JSON: method, calibrated_on, sets")
    parser.add_argument("--exact", action="store_true", help="score the optima of the model's game")
    parser.add_argument("--add", action="store_true", help="write what was scored to the model's file")
    parser.add_argument("--note", default="", help="what readers of the figures must know")
    parser.add_argument("--calibrated-on", default="", help="the rows' own text, if not that of the present code")
    parser.add_argument("--n-layers", type=int)
    parser.add_argument("--draw", type=int, default=0)
    parser.add_argument("--device", type=device, default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the models' files")
    parser.add_argument("--write", type=Path, help="a page; between its markers <!-- tables: begin --> and end")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.action == "games":
        print("\n".join(map(str, write_games())))
    elif options.action == "table":
        boards = [Board.read(name, options.folder) for name in models(options.folder)]
        print_or_write(f"{provenance()}\n\n{page(boards)}", options.write)
    else:
        {"score": score, "collect": collect}[options.action](options)


if __name__ == "__main__":
    main()

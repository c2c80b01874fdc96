"""How long should calibration sequences be? Layers chosen on as many tokens in short and in long sequences.

    python -m benchmarks.selection.sequence_length                 # SmolLM2, half an hour on one core
    python -m benchmarks.selection.sequence_length --write benchmarks/results/sequence_length.md

The same articles of WikiText-2's raw test text, cut into sequences of each length; the articles between them are
tested on, cut in the same ways. Greedy elimination chooses, and two methods that read hidden states. An interrupted run
goes on from its ledgers (`benchmarks/cache/sequence_length_*`).
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import CACHE, evenly, markdown, print_or_write, provenance, wikitext_articles
from benchmarks.selection.generalisation import loaded
from benchmarks.selection.methods import greedy_pruner
from layershap import Calibration, LayerGame
from layershap.baselines import AngularDistance, ShortGPT
from layershap.masks import without


def cut(articles: list[str], tokenizer: Any, length: int, n_tokens: int) -> Calibration:
    """So many tokens of the articles, in sequences of one length at even distances."""
    text = Calibration.from_texts(articles, tokenizer, seq_len=length, n_sequences=None)
    return text.take(torch.tensor(evenly(text.n_sequences, n_tokens // length)))


def methods(n_layers: int, depths: list[int], ledger: Path) -> dict[str, Any]:
    return {
        "greedy": greedy_pruner(n_layers, max(depths), ledger),
        "ShortGPT": ShortGPT(),
        "angular distance": AngularDistance(),
    }


def tables(model_name: str, lengths: list[int], depths: list[int], n_tokens: int) -> str:
    slug, title, model, tokenizer = loaded(model_name)
    n_layers = model.config.num_hidden_layers
    calibrated, tested = wikitext_articles()
    CACHE.mkdir(exist_ok=True)
    sets: dict[tuple[str, int], dict[int, list[int]]] = {}
    seconds: dict[tuple[str, int], float] = {}
    for length in lengths:
        text = cut(calibrated, tokenizer, length, n_tokens)
        ledger = CACHE / f"sequence_length_{slug}_{length}_{n_tokens}.jsonl"
        for name, method in methods(n_layers, depths, ledger).items():
            start = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                method.fit(model, text)
            seconds[name, length] = time.process_time() - start
            sets[name, length] = {n: method.removed_layers(n) for n in depths}
    lines = [f"{title}; {n_tokens:,} tokens of calibration text, {n_tokens:,} of test text.", ""]
    masks = {tuple(layers): without(layers, n_layers) for of_depth in sets.values() for layers in of_depth.values()}
    masks[()] = without([], n_layers)
    for length in lengths:
        with LayerGame(model, cut(tested, tokenizer, length, n_tokens)) as game:
            found = game.statistics(np.array(list(masks.values())))
        nll = dict(zip(masks, found.sums["nll"].sum(axis=1) / found.counts.sum(), strict=True))
        body = []
        for (name, chosen_on), of_depth in sorted(sets.items(), key=lambda item: item[0][0]):
            cells = [f"{np.exp(nll[tuple(of_depth[n])]):,.1f}" for n in depths]
            body.append([name, str(chosen_on), *cells])
        lines += [
            f"Tested in sequences of {length} tokens; all layers: {np.exp(nll[()]):.1f}",
            "",
            markdown(["method", "chosen on sequences of", *(f"{n} removed" for n in depths)], body),
            "",
        ]
    chosen = [
        [name, str(length), f"{seconds[name, length]:.0f}", *(" ".join(map(str, of_depth[n])) for n in depths)]
        for (name, length), of_depth in sorted(sets.items(), key=lambda item: item[0][0])
    ]
    head = ["method", "sequences of", "CPU s", *map(str, depths)]
    lines += [
        "Layers removed; seconds are those of this run, without what its ledger held:",
        "",
        markdown(head, chosen),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2", help="smollm2, or a folder with a checkpoint")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--depths", type=int, nargs="+", default=[3, 6, 9])
    parser.add_argument("--tokens", type=int, default=16_384, help="of calibration text, and of test text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, help="a page; between its markers <!-- tables: begin --> and end")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = tables(options.model, options.lengths, options.depths, options.tokens)
    print_or_write(f"{provenance()}\n\n{found}", options.write)


if __name__ == "__main__":
    main()

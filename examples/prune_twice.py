"""
Prune, then prune again
=======================

Removes layers of the bundled model, fits anew on the smaller model, and removes more of it; beside it, one fit that
removes as many at once. Indices of the second round count the layers that were left, so the example keeps track of the
original ones.

    python examples/prune_twice.py [--first 3] [--second 2]
"""

from __future__ import annotations

import argparse

import numpy as np

from layershap import PERPLEXITY_PROTOCOLS, LayerPruner, evaluate, side_by_side
from layershap.datasets import load_calibration_text, load_evaluation_text, load_tiny_gpt2


def main(first: int = 3, second: int = 2) -> None:
    model, tokenizer = load_tiny_gpt2()
    calibration = PERPLEXITY_PROTOCOLS["seq128"].sequences(load_calibration_text(), tokenizer, n_sequences=4)

    def fitted(on, max_remove: int) -> LayerPruner:
        return LayerPruner(max_remove=max_remove, n_masks=64, random_state=0).fit(on, calibration)

    round_one = fitted(model, first + second)
    smaller = round_one.transform(model, first)
    round_two = fitted(smaller, second)
    smallest = round_two.transform(smaller, second)
    at_once = round_one.transform(model, first + second)

    left = np.flatnonzero(round_one.get_support(first))
    removed = [*round_one.removed_layers(first), *left[round_two.removed_layers(second)]]
    print(f"in two rounds: {round_one.removed_layers(first)}, then {left[round_two.removed_layers(second)].tolist()}")
    print(f"at once:       {round_one.removed_layers(first + second)}")
    print(f"same set:      {sorted(removed) == round_one.removed_layers(first + second)}")

    models = {"dense": model, f"-{first}": smaller, f"-{first} -{second}": smallest, f"-{first + second}": at_once}
    held_out = {"texts": {"held-out books": load_evaluation_text()}, "n_sequences": 16}
    print(side_by_side({name: evaluate(each, tokenizer, **held_out) for name, each in models.items()}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=3)
    parser.add_argument("--second", type=int, default=2)
    arguments = parser.parse_args()
    main(arguments.first, arguments.second)

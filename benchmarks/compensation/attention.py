"""Whether refitting attention's write beside the feed-forward part's gains: `LinearRefit` with and without `o_proj`.

    python -m benchmarks.compensation.attention --n 6 --tokens 16384

Without the default's set of SmolLM2's layers, on the mixture of `benchmarks.compensation.compensation`. `LinearRefit`
itself leaves attention's write as it is; here its regression is run for both writes before each gap, front to back.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace
from typing import Any

import torch

from benchmarks.common import LENGTH
from benchmarks.compensation.compensation import sets_of
from benchmarks.leaderboard.board import Board
from benchmarks.real_model.evaluation import test_of
from benchmarks.real_model.results import perplexity
from benchmarks.real_model.subject import MIXTURE, Limits, Subject
from layershap import find_layers, remove_layers
from layershap.compensation import LinearRefit, Removal, compensation_record
from layershap.compensation.linear import LinearLayer
from layershap.compensation.writes import WriteFinder


class AttentionFirst(LinearRefit):
    """`LinearRefit` of attention's write, then of the feed-forward part's, before each gap."""

    attention_first = True

    def _refits(self, removal: Removal) -> list[Any]:
        finder, found = WriteFinder(removal.model, removal.stack), []
        for refit in super()._refits(removal):
            first = finder.of(refit.layer)[0]
            linear = LinearLayer(removal.stack.layers[refit.layer].get_submodule(first.name))
            attention = replace(refit, module=first.name, multiplier=first.multiplier, n_inputs=linear.n_inputs)
            found += [attention, refit] if self.attention_first else [refit, attention]
        return found


class AttentionLast(AttentionFirst):
    """The other way round."""

    attention_first = False


METHODS = {
    "down_proj": LinearRefit(),
    "o_proj, then down_proj": AttentionFirst(),
    "down_proj, then o_proj": AttentionLast(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2", choices=["smollm2", "gpt2"])
    parser.add_argument("--n", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--test-sequences", type=int, default=64, help="half as many of C4 and of the book")
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = Subject.load(options.model, 0, "cpu")
    measures = [each for each in subject.measures(Limits(options.test_sequences, 0)) if "seq2048" not in each.key]
    calibration, stack = subject.calibration(MIXTURE, options.tokens // LENGTH), find_layers(subject.model)
    layers = sets_of(Board.read(options.model), "default")[options.n]
    for name, compensation in METHODS.items():
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small = remove_layers(
                subject.model, layers, stack=stack, check=False, compensation=compensation, calibration=calibration
            )
        seconds, record = time.process_time() - start, compensation_record(small)
        assert record is not None
        tested = ", ".join(f"{measure.key} {perplexity(test_of(small, measure)):.1f}" for measure in measures)
        losses = f"held-out loss {record.loss_before:.4f} -> {record.loss_after:.4f}"
        print(f"without layers {list(layers)}, {name}: {losses}; {tested}; {seconds:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()

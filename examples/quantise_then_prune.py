"""
Quantise, then prune
====================

Loads the bundled model in 8 bits with bitsandbytes (which has a CPU build), fits the pruner on the quantised model
itself, removes layers of it, and saves and reloads the result. Ends with what a quantised model can't do.

    python examples/quantise_then_prune.py [--n-remove 3]

Needs the extra ``quant``: ``pip install 'layershap[quant]'``.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from layershap import PERPLEXITY_PROTOCOLS, LayerPruner, evaluate, save_pruned, side_by_side
from layershap.baselines import ShortenedLlama
from layershap.datasets import load_calibration_text, load_evaluation_text, load_tiny_gpt2

# On a CPU, bitsandbytes says at each product that it casts float32 to float16.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def main(n_remove: int = 3) -> None:
    model, tokenizer = load_tiny_gpt2()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder / "dense")
        quantised = AutoModelForCausalLM.from_pretrained(
            folder / "dense", quantization_config=BitsAndBytesConfig(load_in_8bit=True)
        )
        calibration = PERPLEXITY_PROTOCOLS["seq128"].sequences(load_calibration_text(), tokenizer, n_sequences=4)
        pruner = LayerPruner(max_remove=n_remove, n_masks=64, random_state=0).fit(quantised, calibration)
        print(f"forward: {pruner.diagnostics_['path']} {pruner.diagnostics_['path_note']}")
        pruned = pruner.transform(quantised, n_remove)
        print(f"removed layers {pruner.removed_layers(n_remove)}")
        pruned.save_pretrained(folder / "pruned")
        reloaded = AutoModelForCausalLM.from_pretrained(folder / "pruned")

        models = {"dense": model, "int8": quantised, "int8, pruned": pruned, "reloaded": reloaded}
        held_out = {"texts": {"held-out books": load_evaluation_text()}, "n_sequences": 16}
        print(side_by_side({name: evaluate(each, tokenizer, **held_out) for name, each in models.items()}))
        for label, each in models.items():
            print(f"{label}: {each.config.n_layer} layers, {each.get_memory_footprint() / 1e6:.1f} MB")

        # What needs gradients, or rebuilds the model from its config, says that it can't.
        for attempt in (
            lambda: ShortenedLlama(criterion="taylor").fit(quantised, calibration),
            lambda: save_pruned(pruned, folder / "recipe"),
        ):
            try:
                attempt()
            except ValueError as error:
                print(f"refused: {error}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--n-remove", type=int, default=3)
    main(parser.parse_args().n_remove)

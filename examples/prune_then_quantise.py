"""
Prune, then quantise
====================

Removes layers of the bundled model, turns the weights of the smaller one into 8-bit integers with torchao, and prints
size and held-out perplexity at each step. Removal and quantisation add up: neither knows of the other.

    python examples/prune_then_quantise.py [--n-remove 3]

Needs the extra ``quant``: ``pip install 'layershap[quant]'``.
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from transformers.pytorch_utils import Conv1D

from layershap import PERPLEXITY_PROTOCOLS, LayerPruner, evaluate, side_by_side
from layershap.datasets import load_calibration_text, load_evaluation_text, load_tiny_gpt2


def with_linear_layers(model: nn.Module) -> nn.Module:
    """The same model with GPT-2's transposed `Conv1D` modules as `nn.Linear`, the only kind that torchao quantises.

    Models younger than GPT-2 have `nn.Linear` and don't need this.
    """
    model = copy.deepcopy(model)
    for path, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            linear = nn.Linear(module.nx, module.nf)
            linear.weight, linear.bias = nn.Parameter(module.weight.detach().T.contiguous()), module.bias
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, linear)
    return model


def megabytes(model: nn.Module) -> float:
    """Weights of the layers, as stored; the parts of a quantised tensor (integers and scales) count as they are."""
    total = 0
    for parameter in model.transformer.h.parameters():
        inner = getattr(parameter, "__tensor_flatten__", None)
        parts = [parameter] if inner is None else [getattr(parameter, name) for name in inner()[0]]
        total += sum(part.numel() * part.element_size() for part in parts)
    return total / 1e6


def main(n_remove: int = 3) -> None:
    model, tokenizer = load_tiny_gpt2()
    calibration = PERPLEXITY_PROTOCOLS["seq128"].sequences(load_calibration_text(), tokenizer, n_sequences=4)
    pruner = LayerPruner(max_remove=n_remove, n_masks=64, random_state=0).fit(model, calibration)

    pruned = pruner.transform(model, n_remove)
    print(f"removed layers {pruner.removed_layers(n_remove)}")
    quantised = with_linear_layers(pruned)
    quantize_(quantised, Int8WeightOnlyConfig())

    models = {"dense": model, "pruned": pruned, "pruned, int8": quantised}
    held_out = {"texts": {"held-out books": load_evaluation_text()}, "n_sequences": 32}
    print(side_by_side({name: evaluate(each, tokenizer, **held_out) for name, each in models.items()}))
    for name, each in models.items():
        print(f"{name}: {len(each.transformer.h)} layers, {megabytes(each):.1f} MB")

    prompt = tokenizer("It was", return_tensors="pt")
    with torch.inference_mode():
        words = quantised.generate(**prompt, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    print(f"the quantised model generates: {tokenizer.decode(words[0])!r}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--n-remove", type=int, default=3)
    main(parser.parse_args().n_remove)

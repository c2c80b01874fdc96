"""Pruning with quantisation, healing and pruning again: the examples, and what must hold between them."""

from __future__ import annotations

import copy
import re

import pytest
import torch

from layershap import LayerPruner, remove_layers
from layershap.forward.unmasked import sequence_statistics

from .helpers.commands import run_example


def perplexities(output, kind="held-out books"):
    """The row of perplexities of a kind of text that an example prints, in order."""
    (row,) = re.findall(rf"^{kind} +perplexity +seq128 +\d+ +(.*)$", output, flags=re.MULTILINE)
    return [float(value) for value in re.findall(r"([\d.]+) ± ", row)]


def test_prune_then_quantise():
    pytest.importorskip("torchao")
    output = run_example("prune_then_quantise.py", "--n-remove", 2)
    dense, pruned, quantised = perplexities(output)
    assert dense < pruned
    assert quantised == pytest.approx(pruned, rel=0.01)
    sizes = [float(value) for value in re.findall(r"layers, ([\d.]+) MB", output)]
    # Two of twelve layers less, and of four bytes a weight one is left (and the scales).
    assert sizes[1] / sizes[0] == pytest.approx(10 / 12, abs=0.01)
    assert 0.25 < sizes[2] / sizes[1] < 0.3
    assert "generates: 'It was" in output


def test_quantise_then_prune():
    pytest.importorskip("bitsandbytes")
    output = run_example("quantise_then_prune.py", "--n-remove", 2)
    dense, quantised, pruned, reloaded = perplexities(output)
    assert quantised == pytest.approx(dense, rel=0.01)
    assert quantised < pruned < 1.5 * quantised
    assert reloaded == pruned
    assert "refused: Taylor and magnitude need floating-point weights" in output
    assert "refused: save_pruned must rebuild" in output


def test_prune_then_heal():
    pytest.importorskip("peft")
    output = run_example(
        "prune_then_heal.py", "--remove", 2, 3, 7, 8, "--sequences", 32, "--steps", 8, "--eval-sequences", 12
    )
    for kind in ("same novel", "held-out books"):
        dense, none, rescaled, refitted, lora, both = perplexities(output, kind)
        assert dense < min(rescaled, refitted, lora, both)
        assert max(refitted, lora, both) < none
        assert rescaled < 1.005 * none
    (line,) = re.findall(r"^seconds: (.*)$", output, flags=re.MULTILINE)
    seconds = {name: float(value) for name, value in (entry.rsplit(" ", 1) for entry in line.split(", "))}
    assert list(seconds) == ["none", "Rescale", "LinearRefit", "LoRA", "LinearRefit + LoRA"]
    assert seconds["LinearRefit + LoRA"] > seconds["LinearRefit"] > seconds["none"]
    assert len(re.findall(r"^won back of what pruning cost, .*LinearRefit \d+%", output, flags=re.MULTILINE)) == 2
    assert len(re.findall(r"changes: \d+; loss on the calibration text held out", output)) == 2


def test_prune_twice():
    output = run_example("prune_twice.py", "--first", 2, "--second", 1)
    dense, first, second, at_once = perplexities(output)
    assert dense < first < second
    same = re.findall(r"same set: +(True|False)", output) == ["True"]
    assert (second == at_once) == same


def test_the_order_of_pruning_and_weight_quantisation_does_not_matter(stories, stories_calibration):
    """Weight-only quantisation works row by row: the removed layers take nothing with them."""
    quantization = pytest.importorskip("torchao.quantization")
    model, _ = stories

    def quantised(one):
        one = copy.deepcopy(one)
        quantization.quantize_(one, quantization.Int8WeightOnlyConfig())
        return one

    pruner = LayerPruner(max_remove=2, n_masks=24, random_state=0).fit(quantised(model), stories_calibration)
    assert pruner.diagnostics_["path"] == "fused"
    removed = pruner.removed_layers(2)
    first_quantised = pruner.transform(quantised(model), 2)
    first_pruned = quantised(remove_layers(model, removed))
    ids = stories_calibration.ids_ST
    with torch.inference_mode():
        assert torch.equal(first_quantised(ids).logits, first_pruned(ids).logits)
        assert not torch.equal(first_pruned(ids).logits, remove_layers(model, removed)(ids).logits)
    dense = sequence_statistics(model, stories_calibration, ("nll",)).sums["nll"].sum()
    int8 = sequence_statistics(quantised(model), stories_calibration, ("nll",)).sums["nll"].sum()
    assert int8 == pytest.approx(dense, rel=0.02)

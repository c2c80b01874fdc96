"""What save_pruned writes: the model as it is, data only, and refused by plain loading where that goes wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from layershap import load_pruned, remove_layers, remove_sublayers, save_pruned
from layershap.checkpoint import RECIPE_FILE
from layershap.exceptions import SurgeryCheckError, UnsupportedModelError

from .architectures.build import build
from .helpers.models import STORIES, load_stories, tiny_gpt2
from .helpers.surgery import logits

pytestmark = pytest.mark.filterwarnings("ignore::layershap.exceptions.CheckpointWarning")


def by_index() -> nn.Module:
    """A pruned model that its config can't express."""
    return remove_layers(tiny_gpt2(scale_attn_by_inverse_layer_idx=True), [1])


def tied() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, vocab_size=128, tie_word_embeddings=True, initializer_range=0.2)
    return LlamaForCausalLM(config).eval()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# ---- precision


def test_every_weight_keeps_its_own_precision(tmp_path):
    model = build("deepseek_v3").to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "gate.weight" in name or name == "model.embed_tokens.weight":
            parameter.data = parameter.data.float()
    for name, buffer in model.named_buffers():
        if "correction" in name:
            buffer.data = buffer.data.float()
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: output.to(torch.bfloat16))
    pruned = remove_layers(model, [1], check=False)
    pruned.model.embed_tokens._forward_hooks.clear()
    pruned.model.embed_tokens.weight.data = pruned.model.embed_tokens.weight.data.bfloat16()
    again = load_pruned(save_pruned(pruned, tmp_path))
    saved = {name: tensor.dtype for name, tensor in pruned.state_dict().items()}
    assert set(saved.values()) == {torch.float32, torch.bfloat16}
    assert {name: tensor.dtype for name, tensor in again.state_dict().items()} == saved
    assert torch.equal(logits(again), logits(pruned))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_another_precision_leaves_what_the_architecture_keeps(dtype, tmp_path):
    pruned = remove_layers(build("deepseek_v3"), [1])
    kept = pruned._keep_in_fp32_modules_strict
    assert kept
    again = load_pruned(save_pruned(pruned, tmp_path), dtype=dtype)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    assert {n: t.dtype for n, t in again.state_dict().items()} == {n: t.dtype for n, t in whole.state_dict().items()}
    assert {t.dtype for t in again.state_dict().values()} == {torch.float32, dtype}


def test_computed_buffers_keep_their_precision(tmp_path):
    for dtype in (torch.float32, torch.bfloat16):
        pruned = remove_layers(load_stories().to(torch.bfloat16), [1])
        pruned.model.rotary_emb.to(dtype)
        again = load_pruned(save_pruned(pruned, tmp_path / str(dtype)))
        assert again.model.rotary_emb.inv_freq.dtype is dtype


# ---- changes after the removal


def untie(model: LlamaForCausalLM) -> None:
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * 1.5)


def rescale_positions(model: LlamaForCausalLM) -> None:
    model.config.rope_parameters = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4}
    model.model.rotary_emb = LlamaRotaryEmbedding(model.config)


def resize(model: LlamaForCausalLM) -> None:
    model.resize_token_embeddings(140)


def name_padding(model: LlamaForCausalLM) -> None:
    model.config.pad_token_id = 3
    model.generation_config.pad_token_id = 3


@pytest.mark.parametrize("change", [untie, rescale_positions, resize, name_padding])
@pytest.mark.parametrize("then", [None, [0]], ids=["saved", "pruned again"])
def test_what_changed_after_the_removal_comes_back(change, then, tmp_path):
    pruned = remove_layers(tied(), [1])
    change(pruned)
    if then:
        pruned = remove_layers(pruned, then)
    again = load_pruned(save_pruned(pruned, tmp_path))
    assert torch.equal(logits(again), logits(pruned))
    fields = [
        {k: v for k, v in m.config.to_dict().items() if k not in ("dtype", "architectures")} for m in (again, pruned)
    ]
    assert fields[0] == fields[1]


def test_experts_per_token_changed_after_the_removal(tmp_path):
    pruned = remove_layers(build("mixtral"), [1])
    pruned.config.num_experts_per_tok = 1
    for layer in pruned.model.layers:
        layer.mlp.gate.top_k = 1
    assert torch.equal(logits(load_pruned(save_pruned(pruned, tmp_path))), logits(pruned))


def test_changes_that_a_recipe_cannot_hold_are_refused(tmp_path):
    pruned = remove_layers(build("qwen3"), [1])
    pruned.config.layer_types = ["sliding_attention"] + ["full_attention"] * (len(pruned.model.layers) - 1)
    with pytest.raises(UnsupportedModelError, match="layer_types"):
        save_pruned(pruned, tmp_path / "layers")
    silent = remove_layers(load_stories(), [1])
    for layer in silent.model.layers:
        layer.input_layernorm.variance_epsilon = 0.5
    with pytest.raises(SurgeryCheckError, match="as saved must give the logits"):
        save_pruned(silent, tmp_path / "modules")
    assert not any((tmp_path / "modules").iterdir())


# ---- plain loading


@pytest.mark.parametrize("load", [AutoModelForCausalLM, type(tiny_gpt2())], ids=["auto", "class"])
def test_plain_loading_refuses_what_it_would_load_wrongly(load, tmp_path):
    pruned = by_index()
    folder = save_pruned(pruned, tmp_path, tokenizer=AutoTokenizer.from_pretrained(STORIES))
    with pytest.raises(ValueError, match="load it with load_pruned"):
        load.from_pretrained(folder)
    assert torch.equal(logits(load_pruned(folder)), logits(pruned))
    assert AutoTokenizer.from_pretrained(folder)("Once upon").input_ids


def test_plain_loading_is_right_where_it_works(tmp_path):
    pruned = remove_layers(load_stories(), [1, 3])
    folder = save_pruned(pruned, tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), logits(pruned))


def test_unchecked_removals_are_checked_when_saved(tmp_path):
    pruned = remove_layers(tiny_gpt2(scale_attn_by_inverse_layer_idx=True), [1], check=False)
    with pytest.raises(ValueError, match="load it with load_pruned"):
        AutoModelForCausalLM.from_pretrained(save_pruned(pruned, tmp_path))


# ---- folders


@pytest.mark.parametrize("make", [by_index, lambda: remove_layers(load_stories(), [1])], ids=["recipe", "plain"])
def test_a_recipe_does_not_serve_other_weights(make, tmp_path):
    folder = save_pruned(make(), tmp_path)
    remove_layers(tiny_gpt2(), [2]).save_pretrained(folder)
    with pytest.raises(ValueError, match=f"delete {RECIPE_FILE}"):
        load_pruned(folder)


def test_stray_weights_are_not_merged_in(tmp_path):
    pruned = remove_layers(load_stories(), [1])
    folder = save_pruned(pruned, tmp_path)
    remove_layers(load_stories(), [3]).save_pretrained(tmp_path / "other")
    os.replace(tmp_path / "other" / "model.safetensors", folder / "model_backup.safetensors")
    assert torch.equal(logits(load_pruned(folder)), logits(pruned))


def test_other_weights_in_the_folder_are_not_overwritten(tmp_path):
    load_stories().save_pretrained(tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(FileExistsError, match=r"model\.safetensors"):
        save_pruned(by_index(), tmp_path)
    assert files_of(tmp_path) == before


def test_an_earlier_save_is_replaced_altogether(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    tokenizer.chat_template = {"default": "first", "other": "second"}
    save_pruned(remove_layers(load_stories(), [1]), tmp_path, tokenizer=tokenizer)
    second = by_index()
    save_pruned(second, tmp_path, tokenizer=tokenizer)
    assert torch.equal(logits(load_pruned(tmp_path)), logits(second))
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template
    assert not (tmp_path / "model.safetensors").exists()


def test_nothing_is_left_of_a_save_that_fails(tmp_path):
    with pytest.raises(TypeError, match="tokenizer must be"):
        save_pruned(by_index(), tmp_path / "new", tokenizer="gpt2")
    assert not (tmp_path / "new").exists()
    save_pruned(by_index(), tmp_path / "old")
    before = files_of(tmp_path / "old")

    class Failing:
        def save_pretrained(self, folder: Path) -> None:
            Path(folder, "vocab.txt").write_text("half")
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        save_pruned(remove_layers(load_stories(), [1]), tmp_path / "old", tokenizer=Failing())
    assert files_of(tmp_path / "old") == before


def test_half_a_folder_is_refused(tmp_path):
    folder = save_pruned(by_index(), tmp_path)
    for name in ("config.json", "model.layershap.safetensors"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-10])
        with pytest.raises(ValueError, match="changed since"):
            load_pruned(folder)
        (folder / name).unlink()
        with pytest.raises(ValueError, match="Was the save interrupted"):
            load_pruned(folder)
        (folder / name).write_bytes(content)
    assert load_pruned(folder)


# ---- damaged and hostile recipes


def changed_recipe(folder: Path, field: str, value: object) -> Path:
    path = folder / RECIPE_FILE
    recipe = json.loads(path.read_text())
    *parents, last = field.split(".")
    place = recipe
    for parent in parents:
        place = place[parent]
    place[last] = value
    path.write_text(json.dumps(recipe))
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, bytes]:
    return files_of(save_pruned(by_index(), tmp_path_factory.mktemp("saved")))


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    for name, content in saved.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", 1, "format 2"),
        ("format", True, "format 2"),
        ("model_class", "os.system", "plain name"),
        ("model_class", "pipeline", "must be a model class"),
        ("model_class", "AutoModelForCausalLM", "must be a model class"),
        ("model_class", 7, "str as model_class"),
        ("path", "transformer.h; import os", "plain name"),
        ("path", "../h", "plain name"),
        ("n_layers", 10**6, "10000 layers"),
        ("n_layers", True, "int as n_layers"),
        ("removed", [0, 1, 2, 3], "leave a layer"),
        ("removed", [1, 1], "in order"),
        ("removed", [9], "in order"),
        ("removed", ["1"], "in order"),
        ("sublayers", [[0, "head"]], "kinds"),
        ("sublayers", [[1, "mixer"]], "layer that stays"),
        ("buffer_dtypes", {"x": "save"}, "precisions"),
        ("auto_map", {"AutoModel": "code.Model"}, "exactly the fields"),
        ("trust_remote_code", True, "exactly the fields"),
        ("original_config.auto_map", {"AutoModelForCausalLM": "code.Model"}, "data only"),
        ("original_config.attn_implementation", "kernels-community/flash-attn", "data only"),
        ("original_config._attn_implementation", "sdpa", "data only"),
        ("original_config.part", {"_name_or_path": "somebody/model"}, "data only"),
        ("original_config.activation_function", "/etc/passwd", "path or a repository"),
        ("original_config.task", ["a", "..\\b"], "path or a repository"),
        ("original_config.use_pretrained_backbone", True, "data only"),
        ("original_config.quantization_config", {"quant_method": "bitsandbytes"}, "data only"),
        ("files", {"../model.safetensors": "0"}, "own folder"),
        ("files", {"/tmp/model.safetensors": "0"}, "own folder"),
        ("files", {}, "names none"),
        ("original_config.n_layer", 10**6, "count at most"),
        ("original_config.n_embd", 10**6, "must fit"),
        ("original_config.n_embd", "wide", "must"),
        ("original_config.n_inner", 10**9, "must fit"),
        ("original_config.vocab_size", 10**12, "must fit"),
    ],
)
def test_a_recipe_that_is_no_recipe_is_refused(field, value, message, folder):
    with pytest.raises(ValueError, match=message):
        load_pruned(changed_recipe(folder, field, value))


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"text"', "[" * 100_000, "\\ud800", "\x00", "{}"])
def test_a_damaged_recipe_names_its_file(text, folder):
    (folder / RECIPE_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=RECIPE_FILE):
        load_pruned(folder)
    (folder / RECIPE_FILE).write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match=RECIPE_FILE):
        load_pruned(folder)


def test_recipes_name_no_repository_and_no_kernel(tmp_path):
    model = load_stories()
    model.config._name_or_path = "somebody/stories"
    for pruned in (remove_layers(model, [1]), remove_sublayers(model, [1])):
        folder = save_pruned(pruned, tmp_path / str(len(list(tmp_path.iterdir()))))
        text = (folder / RECIPE_FILE).read_text()
        assert "somebody" not in text
        assert "sdpa" not in text
    model.config.activation_checkpoint = "/data/run/4"
    with pytest.raises(UnsupportedModelError, match="activation_checkpoint"):
        save_pruned(remove_layers(model, [1]), tmp_path / "path")

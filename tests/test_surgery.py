"""Surgery on real weights and on tiny real models: the pruned model is the masked one, and a whole model by itself."""

from __future__ import annotations

import functools
import gc
import weakref

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from layershap.checkpoint import RECIPE_FILE, load_pruned, save_pruned
from layershap.exceptions import CheckpointWarning, LayerNotRemovableError, SurgeryCheckError, UnsupportedModelError
from layershap.model.stack import find_layers, skip_layers
from layershap.surgery import families, remove_layers, unremovable_layers
from layershap.surgery.indices import rename

from .architectures.build import build
from .helpers.models import STORIES, Unknown, load_stories, tiny_gpt2
from .helpers.surgery import generate, logits, state


@pytest.mark.parametrize("make", [load_stories, tiny_gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("removed", [[0], [2], [1, 3]], ids=str)
def test_pruned_is_masked_generates_and_reloads(make, removed, tmp_path):
    model = make()
    with skip_layers(model, removed):
        expected = logits(model)
    pruned = remove_layers(model, removed, check=True)

    assert not torch.equal(expected, logits(model))
    assert torch.equal(logits(pruned), expected)
    with_cache = generate(pruned, use_cache=True)
    assert torch.equal(with_cache, generate(pruned, use_cache=False))

    pruned.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), expected)
    assert torch.equal(generate(again, use_cache=True), with_cache)


def test_copy_leaves_the_original_alone_and_shares_nothing():
    model = load_stories()
    before, config = state(model), model.config.to_dict()
    pruned = remove_layers(model, [1])

    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.to_dict() == config
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == list(range(5))
    own = {p.data_ptr() for p in model.parameters()} | {b.data_ptr() for b in model.buffers()}
    assert not own & ({p.data_ptr() for p in pruned.parameters()} | {b.data_ptr() for b in pruned.buffers()})
    assert pruned.config is not model.config
    assert pruned.generation_config is not model.generation_config
    assert pruned.generation_config.to_dict() == model.generation_config.to_dict()
    assert pruned.lm_head.weight is pruned.model.embed_tokens.weight
    pruned.model.layers[0].mlp.up_proj.weight.data.zero_()
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(model.state_dict()[name], before[name])


def test_copy_false_prunes_in_place_and_frees_the_layer():
    model = load_stories()
    with skip_layers(model, [2]):
        expected = logits(model)
    layer = weakref.ref(model.model.layers[2])
    assert remove_layers(model, [2], copy=False) is model
    gc.collect()
    assert layer() is None
    assert torch.equal(logits(model), expected)


def test_chained_removals_equal_one(tmp_path):
    model = load_stories()
    once = remove_layers(model, [1, 3])
    twice = remove_layers(remove_layers(model, [1]), [2])
    assert torch.equal(logits(once), logits(twice))
    assert once.config.to_dict() == twice.config.to_dict()
    assert torch.equal(logits(load_pruned(save_pruned(twice, tmp_path))), logits(once))


@pytest.mark.parametrize("container", [nn.ModuleList, nn.Sequential])
@pytest.mark.parametrize("given", ["path", "modules"])
def test_a_module_unknown_to_transformers(container, given, tmp_path):
    model = Unknown(container)
    stack = find_layers(model, "blocks" if given == "path" else list(model.blocks))
    with skip_layers(model, [1], stack=stack):
        expected = logits(model)
    pruned = remove_layers(model, [1], stack=stack)
    assert torch.equal(logits(pruned), expected)
    assert [block.layer_idx for block in pruned.blocks] == [0, 1, 2]
    with pytest.raises(TypeError, match="without a recipe"):
        save_pruned(pruned, tmp_path)


def test_some_layers_of_a_list_given_as_modules():
    model = load_stories()
    expected = logits(remove_layers(model, [2]))
    pruned = remove_layers(model, [1], stack=find_layers_of_part(model))
    assert torch.equal(logits(pruned), expected)


def find_layers_of_part(model):
    return find_layers(model, list(model.model.layers)[1:4])


def test_layers_outside_a_list_are_refused():
    model = Unknown(nn.ModuleList)
    first, second, *_ = model.blocks
    model.first, model.second = first, second
    model.blocks = nn.ModuleList()
    model.forward = lambda ids: model.head(second(first(model.embedding(ids))))
    with pytest.raises(UnsupportedModelError, match="must lie in one"):
        remove_layers(model, [0], stack=[first, second])


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([], ValueError, "at least one"),
        (range(5), ValueError, "all of them"),
        ([5], ValueError, r"\[0, 5\)"),
        ([-6], ValueError, r"\[-5, 0\)"),
        ([1, 1], ValueError, "distinct"),
        ([4, -1], ValueError, r"\[4\] twice"),
        ([-5, 1, 2, -2, 4], ValueError, "all of them"),
        (2, TypeError, "layer indices must be a list, got the int 2"),
        ([1.0], TypeError, "must be ints"),
        ([True], TypeError, "must be ints"),
    ],
)
def test_bad_indices(layers, error, message):
    model = load_stories()
    with pytest.raises(error, match=message):
        remove_layers(model, layers)
    assert len(model.model.layers) == 5


def test_a_model_that_is_being_skipped_is_not_copied():
    model = load_stories()
    with skip_layers(model, [0]), pytest.raises(ValueError, match="can't be copied"):
        remove_layers(model, [1])


def test_a_forward_bound_to_its_module_is_copied_with_it():
    model = load_stories()
    layer = model.model.layers[0]
    layer.forward = functools.partial(type(layer).forward, layer)
    expected = logits(remove_layers(load_stories(), [1]))
    pruned = remove_layers(model, [1])
    model.model.layers[0].mlp.down_proj.weight.data.zero_()
    assert torch.equal(logits(pruned), expected)


class Rebel(LlamaForCausalLM):
    """Its mathematics goes by loop position, which no surgery can know."""

    def forward(self, input_ids, **kwargs):
        output = super().forward(input_ids, **kwargs)
        output.logits = output.logits * len(self.model.layers)
        return output


@pytest.mark.parametrize("copied", [True, False])
def test_the_self_check_catches_a_wrong_model(copied):
    sizes = {"num_hidden_layers": 3, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    with pytest.raises(SurgeryCheckError, match="logits of the model that skips"):
        remove_layers(Rebel(LlamaConfig(**sizes, vocab_size=128)), [1], copy=copied)
    unchecked = remove_layers(Rebel(LlamaConfig(**sizes, vocab_size=128)), [1], check=False)
    assert len(unchecked.model.layers) == 2


def forwards(model: nn.Module, check: object, removed: tuple[int, ...] = (1,)) -> int:
    """Forwards of the given model or its copy that one removal takes."""
    count = 0

    def counted(*_: object) -> None:
        nonlocal count
        count += 1

    model.register_forward_pre_hook(counted)
    remove_layers(model, removed, check=check)
    return count


def test_check_auto_is_full_for_small_models_and_sampled_for_large_ones(monkeypatch):
    assert forwards(load_stories(), "auto") == forwards(load_stories(), True)
    probe_only = forwards(load_stories(), False)
    monkeypatch.setattr("layershap.surgery.check.SMALL_MODEL_PARAMETERS", load_stories().num_parameters() - 1)
    # The probe that finds the layers, the masked model, the pruned one; nothing is generated or rebuilt.
    assert forwards(load_stories(), "auto") == probe_only + 2
    sizes = {"num_hidden_layers": 3, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    monkeypatch.setattr("layershap.surgery.check.SMALL_MODEL_PARAMETERS", 0)
    with pytest.raises(SurgeryCheckError, match="logits of the model that skips"):
        remove_layers(Rebel(LlamaConfig(**sizes, vocab_size=128)), [1])
    with pytest.warns(CheckpointWarning, match="layer's old index is baked into it"):
        remove_layers(build("diffllama"), [0])


def test_check_must_be_known():
    with pytest.raises(ValueError, match="check must be"):
        remove_layers(load_stories(), [1], check="full")


def test_a_config_that_cannot_express_the_result_warns_and_keeps_a_recipe(tmp_path):
    model = tiny_gpt2(scale_attn_by_inverse_layer_idx=True)
    with pytest.warns(CheckpointWarning, match="save_pruned"):
        pruned = remove_layers(model, [1])
    with pytest.warns(CheckpointWarning, match="save_pruned"):
        pruned = remove_layers(pruned, [0])
    expected = logits(pruned)
    pruned.save_pretrained(tmp_path / "plain")
    assert not torch.allclose(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "plain")), expected)

    folder = save_pruned(pruned, tmp_path / "recipe")
    assert (folder / RECIPE_FILE).is_file()
    assert not list(folder.glob("*.bin")) + list(folder.glob("*.pkl"))
    again = load_pruned(folder)
    assert torch.equal(logits(again), expected)
    assert torch.equal(generate(again, use_cache=True), generate(pruned, use_cache=True))
    assert again.lm_head.weight is again.transformer.wte.weight


def test_tokenizer_chat_template_and_generation_config_travel_along(tmp_path):
    model, tokenizer = load_stories(), AutoTokenizer.from_pretrained(STORIES)
    tokenizer.chat_template = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"
    model.generation_config.update(max_new_tokens=7, repetition_penalty=1.3)
    pruned = remove_layers(model, [1])
    folder = save_pruned(pruned, tmp_path / "recipe", tokenizer=tokenizer)
    pruned.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    chat = [{"role": "user", "content": "Once upon a time"}]
    ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
    for again, place in (
        (load_pruned(folder), folder),
        (AutoModelForCausalLM.from_pretrained(tmp_path / "plain"), tmp_path / "plain"),
    ):
        read = AutoTokenizer.from_pretrained(place)
        assert read.apply_chat_template(chat, tokenize=False) == "<user>Once upon a time"
        assert (again.generation_config.max_new_tokens, again.generation_config.repetition_penalty) == (7, 1.3)
        assert torch.equal(again.generate(**ids, do_sample=False), pruned.generate(**ids, do_sample=False))


def test_load_pruned_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="from_pretrained"):
        load_pruned(STORIES)
    folder = save_pruned(remove_layers(load_stories(), [1]), tmp_path)
    with pytest.raises(TypeError, match="without a recipe"):
        save_pruned(load_stories(), tmp_path / "other")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="safetensors"):
        load_pruned(folder)


@pytest.mark.parametrize(
    ("model_type", "layer", "rule"),
    [
        ("gemma4_text", 2, "shared KV"),
        ("gemma3n_text", 3, "shared KV"),
        ("glm_moe_dsa", 0, "indexer"),
        ("hy_v4", 0, None),
        ("inkling2_text", 2, "block boundary"),
        ("rwkv", 0, "pre_ln"),
        ("minimax", 0, "linear-attention"),
    ],
)
def test_layers_that_others_need_are_refused(model_type, layer, rule):
    model = build(model_type)
    assert layer in unremovable_layers(model, find_layers(model))
    if rule is None:  # protected in fit; alone it can go, the next layer takes its part
        assert torch.isfinite(logits(remove_layers(model, [layer]))).all()
    else:
        with pytest.raises(LayerNotRemovableError, match=rule):
            remove_layers(model, [layer])


def test_shared_indexers_may_not_lose_all_their_full_ones():
    model = build("hy_v4")
    with pytest.raises(LayerNotRemovableError, match="indexer"):
        remove_layers(model, [0, 1])


@pytest.mark.parametrize(
    "model_type", ["gemma4_text", "zamba2", "llama4_text", "jamba", "deepseek_v3", "recurrent_gemma"]
)
def test_several_removable_layers_of_mixed_kinds(model_type):
    model = build(model_type)
    stack = find_layers(model)
    free = [i for i in range(len(stack)) if i not in unremovable_layers(model, stack)]
    removed = free[::3]
    with skip_layers(model, removed, stack=stack):
        expected = logits(model)
    assert torch.allclose(logits(remove_layers(model, removed, stack=stack)), expected, atol=1e-6)


@pytest.mark.parametrize(("model_type", "attention"), [("zamba2", [2, 4, 6]), ("jamba", [1, 4]), ("lfm2", [1, 4])])
def test_a_hybrid_keeps_an_attention_layer(model_type, attention):
    model = build(model_type)
    with pytest.raises(LayerNotRemovableError, match="at least one of its attention layers"):
        remove_layers(model, attention)
    assert len(find_layers(remove_layers(model, attention[1:]))) == len(find_layers(model)) - len(attention) + 1


def test_solve_period():
    assert families.solve_period([1, 4], 6) == (3, 1)
    assert families.solve_period([0, 1], 4) is None
    assert families.solve_period([], 3) == (4, 3)


def test_rename():
    positions = {0: 0, 2: 1}
    assert rename("model.layers.2.mlp", "model.layers", positions) == "model.layers.1.mlp"
    assert rename("model.layers.1", "model.layers", positions) is None
    assert rename("model.norm", "model.layers", positions) == "model.norm"

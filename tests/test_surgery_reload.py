"""The verdict on plain reloading: what it rests on at any size, and what it warns of."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    OlmoHybridConfig,
    OlmoHybridForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from layershap import CheckpointWarning, load_pruned, remove_layers, save_pruned, skip_layers
from layershap.surgery.config import prune_config

from .architectures.build import build
from .helpers.surgery import logits


@pytest.fixture
def large(monkeypatch):
    """Every model counts as one above 100 M parameters."""
    monkeypatch.setattr("layershap.surgery.check.SMALL_MODEL_PARAMETERS", 0)


# ---- lists of layer indices


class Fields:
    def __init__(self, **fields: object) -> None:
        vars(self).update(fields)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("rope_scaling_layers", [0, 1, 2, 3, 4], [0, 1, 2]),
        ("rope_scaling_layers", [1, 4], [2]),
        ("global_layer_ids", (0, 2, 3), (0, 1)),
        ("mlp_only_layers", [], []),
        ("mlp_only_layers", [1, 3], []),
        ("moe_layers", [4, 0], [2, 0]),
        ("no_rope_layers", [1, 1, 0, 1, 1], [1, 0, 1]),
        ("no_rope_layers", [0, 1, 0, 1, 0], [0, 0, 0]),
        ("layer_types", list("abcde"), list("ace")),
        ("layer_types", list("abcdexy"), list("acexy")),
        ("kv_source_layers", [0, 1, 0, 3, 2], [0, 0, 1]),
        ("vision_feature_layers", [0, 1, 3], [0, 1, 3]),
        ("mtp_local_layer_ids", [0, 1], [0, 1]),
        ("ple_layer_ids", [1, 3, 4], [1, 2]),
    ],
)
def test_lists_are_read_by_name_and_values(name, before, after):
    config = Fields(num_hidden_layers=5, **{name: before})
    prune_config(config, 5, [0, 2, 4])
    assert getattr(config, name) == after
    assert config.num_hidden_layers == 3


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("layer_types", list("abcdexy"), list("acexy")),
        ("layer_types", list("abcde"), list("ace")),
        ("no_rope_layers", [1, 0, 1, 0, 1, 0, 0], [1, 1, 1, 0, 0]),
        ("partial_rotary_factors", [0.5, 1.0, 0.25, 1.0, 0.75, 1.0, 1.0], [0.5, 0.25, 0.75, 1.0, 1.0]),
        ("swiglu_limits", [None, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [None, 2.0, 4.0, 5.0, 6.0]),
        ("moe_layers", [1, 2, 3, 4, 5, 6], [1, 2, 3, 4]),
        ("mtp_layer_types", ["a", "b"], ["a", "b"]),
        ("eos_token_id", [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7]),
    ],
)
@pytest.mark.parametrize("told", [{"num_nextn_predict_layers": 2}, {"mlp_layer_types": list("abcdexy")}], ids=str)
def test_entries_of_layers_behind_the_decoders_own_stay_at_the_end(name, before, after, told):
    config = Fields(num_hidden_layers=5, **told, **{name: before})
    prune_config(config, 5, [0, 2, 4])
    assert getattr(config, name) == after
    assert config.num_hidden_layers == 3


def molmo(scaled: list[int] | None) -> nn.Module:
    torch.manual_seed(0)
    part = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "head_dim": 8}
    text = {**part, "vocab_size": 120, "additional_vocab_size": 8, "num_hidden_layers": 5, "num_key_value_heads": 2}
    text["rope_parameters"] = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4}
    vision = {**part, "num_hidden_layers": 2, "num_key_value_heads": 4, "image_patch_size": 14, "patch_size": 14}
    vision["image_default_input_size"] = [28, 28]
    adapter = {**part, "vision_feature_layer": [0, 1], "num_key_value_heads": 4, "text_hidden_size": 32}
    names = ["image_patch_id", "image_start_token_id", "image_end_token_id"]
    names += ["low_res_image_start_token_id", "frame_start_token_id", "frame_end_token_id"]
    config = Molmo2Config(
        text_config={**text, "rope_scaling_layers": scaled},
        vision_config=vision,
        adapter_config=adapter,
        **{name: 110 + i for i, name in enumerate(names)},
    )
    return Molmo2ForConditionalGeneration(config).eval()


@pytest.mark.parametrize(("scaled", "left"), [(None, [0, 1, 2]), ([0, 3], [0]), ([1, 4], [2])])
@pytest.mark.filterwarnings("error::layershap.exceptions.CheckpointWarning")
@pytest.mark.filterwarnings("ignore::layershap.exceptions.UncheckedInputWarning")
def test_what_the_parent_works_out_per_layer_goes_with_the_layers(scaled, left, large, tmp_path):
    model = molmo(scaled)
    with skip_layers(model, [1, 3]):
        expected = logits(model)
    pruned = remove_layers(model, [1, 3])
    assert torch.equal(logits(pruned), expected)
    assert pruned.config.text_config.rope_scaling_layers == left
    pruned.save_pretrained(tmp_path)
    assert torch.equal(logits(type(pruned).from_pretrained(tmp_path).eval()), expected)


# ---- what is compared


class DepthConfig(PretrainedConfig):
    model_type = "depth_scaled"

    def __init__(self, num_hidden_layers: int = 5, **fields: object) -> None:
        self.num_hidden_layers = num_hidden_layers
        super().__init__(**fields)


class DepthLayer(nn.Module):
    def __init__(self, config: DepthConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.scales = [1.0 / math.sqrt(config.num_hidden_layers)]  # in a list, which the structure does not show

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states + self.scales[0] * torch.tanh(self.linear(hidden_states))


class DepthModel(PreTrainedModel):
    """Its residual branches are scaled by the number of layers, which nothing but its logits shows."""

    config_class = DepthConfig

    def __init__(self, config: DepthConfig) -> None:
        super().__init__(config)
        self.embed, self.head = nn.Embedding(128, 16), nn.Linear(16, 128)
        self.layers = nn.ModuleList(DepthLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def forward(self, input_ids: Tensor, **_: object) -> CausalLMOutputWithPast:
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return CausalLMOutputWithPast(logits=self.head(hidden))


def test_a_large_model_is_compared_by_its_logits_on_its_own_weights(large, tmp_path):
    torch.manual_seed(0)
    model = DepthModel(DepthConfig()).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter)
    with pytest.warns(CheckpointWarning, match="gives other logits"):
        pruned = remove_layers(model, [1])
    kept = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in pruned.state_dict().items()}
    folder = save_pruned(pruned, tmp_path)
    for name, tensor in pruned.state_dict().items():
        assert tensor.data_ptr() == kept[name][0]
        assert torch.equal(tensor, kept[name][1])
    assert torch.equal(logits(load_pruned(folder, model_class=DepthModel)), logits(pruned))


def test_own_code_that_cannot_be_compared_is_not_vouched_for(large):
    from accelerate import cpu_offload

    with pytest.warns(CheckpointWarning, match="code of its own"):
        remove_layers(cpu_offload(DepthModel(DepthConfig()).eval(), execution_device=torch.device("cpu")), [1])


# ---- wrappers


def with_lora(model: nn.Module, **fields: object) -> nn.Module:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], **fields)).eval()


def with_checkpointing(model: nn.Module) -> nn.Module:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    for layer in model.model.layers:
        layer.mlp = checkpoint_wrapper(layer.mlp)
    return model


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: with_lora(model, modules_to_save=["lm_head", "norm"]),
        lambda model: with_lora(model, trainable_token_indices=[3, 5]),
        with_checkpointing,
    ],
    ids=["modules to save", "trainable tokens", "activation checkpointing"],
)
@pytest.mark.filterwarnings("error::layershap.exceptions.CheckpointWarning")
def test_wrapped_modules_are_the_modules_inside(wrap):
    assert remove_layers(wrap(build("llama")), [1])


def test_adapters_are_merged_before_save_pruned(tmp_path):
    tuned = with_lora(build("jamba"), init_lora_weights=False)
    with pytest.warns(CheckpointWarning, match="merge them"):
        pruned = remove_layers(tuned, [1])
    with pytest.raises(TypeError, match="merge_and_unload"):
        save_pruned(pruned, tmp_path / "adapters")
    assert not (tmp_path / "adapters").exists()
    merged = pruned.merge_and_unload()
    assert torch.equal(logits(load_pruned(save_pruned(merged, tmp_path / "merged"))), logits(merged))


# ---- configs that refuse themselves


def test_a_hybrid_that_loses_a_kind_is_a_warning_and_a_recipe(tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8}
    kinds = ["linear_attention", "full_attention"] * 2
    config = OlmoHybridConfig(
        **sizes,
        **linear,
        num_hidden_layers=4,
        num_key_value_heads=2,
        layer_types=kinds,
        linear_value_head_dim=8,
        pad_token_id=0,
    )
    model = OlmoHybridForCausalLM(config).eval()
    with skip_layers(model, [0, 2]):
        expected = logits(model)
    with pytest.warns(CheckpointWarning, match="config is refused"):
        pruned = remove_layers(model, [0, 2])
    assert torch.allclose(logits(pruned), expected, atol=1e-6)
    assert torch.equal(logits(load_pruned(save_pruned(pruned, tmp_path))), logits(pruned))


class PaddedConfig(PretrainedConfig):
    """Lists per layer have entries for two layers of multi-token prediction too."""

    model_type = "padded"
    num_hidden_layers: int = 5
    num_nextn_predict_layers: int = 2
    layers_block_type: list[str] | None = None
    swiglu_limits: list[float] | None = None


class PaddedLayer(nn.Module):
    def __init__(self, config: PaddedConfig, index: int) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.limit = config.swiglu_limits[index]
        self.kind = config.layers_block_type[index]

    def forward(self, hidden_states: Tensor) -> Tensor:
        update = self.linear(hidden_states).clamp(max=self.limit)
        return hidden_states + (update.tanh() if self.kind == "attention" else update)


class PaddedModel(DepthModel):
    """Its layers read limits and kinds by their indices; those of multi-token prediction are not built."""

    config_class = PaddedConfig

    def __init__(self, config: PaddedConfig) -> None:
        PreTrainedModel.__init__(self, config)
        self.embed, self.head = nn.Embedding(128, 16), nn.Linear(16, 128)
        self.layers = nn.ModuleList(PaddedLayer(config, index) for index in range(config.num_hidden_layers))
        self.post_init()


def test_a_model_with_entries_for_layers_of_multi_token_prediction_is_cut_and_reloaded(tmp_path):
    torch.manual_seed(0)
    kinds = ["attention", "mamba"] * 3 + ["mamba"]
    config = PaddedConfig(layers_block_type=kinds, swiglu_limits=[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
    model = PaddedModel(config).eval()
    with skip_layers(model, [0, 3]):
        expected = logits(model)
    pruned = remove_layers(model, [0, 3], check=False)
    assert torch.equal(logits(pruned), expected)
    assert pruned.config.layers_block_type == ["mamba", "attention", "attention", *kinds[5:]]
    assert pruned.config.swiglu_limits == [0.02, 0.05, 0.2, 0.5, 1.0]
    pruned.save_pretrained(tmp_path)
    assert torch.equal(logits(PaddedModel.from_pretrained(tmp_path).eval()), expected)


@pytest.mark.parametrize("check", ["auto", False])
@pytest.mark.filterwarnings("error::layershap.exceptions.CheckpointWarning")
def test_kinds_of_more_layers_than_there_are(check, tmp_path):
    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, num_hidden_layers=4, num_key_value_heads=2)).eval()
    model.config.layer_types = ["full_attention"] * 4 + ["sliding_attention"]
    pruned = remove_layers(model, [1, 3], check=check)
    assert pruned.config.layer_types == ["full_attention"] * 2
    with skip_layers(model, [1, 3]):
        assert torch.equal(logits(pruned), logits(model))
    pruned.save_pretrained(tmp_path)
    assert torch.equal(logits(Qwen2ForCausalLM.from_pretrained(tmp_path).eval()), logits(pruned))


class PaddedKindsConfig(PaddedConfig):
    """As checkpoints with code of their own have it: transformers reads a long list of this name, but won't save it."""

    model_type = "padded_kinds"
    layer_types: list[str] | None = None


class PaddedKindsModel(PaddedModel):
    config_class = PaddedKindsConfig


def test_a_layer_types_that_transformers_wont_save_is_cut_to_the_depth(tmp_path):
    torch.manual_seed(0)
    kinds = ["full_attention", "sliding_attention"] * 3 + ["full_attention"]
    limits = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    config = PaddedKindsConfig(layer_types=kinds, layers_block_type=["attention", "mamba"] * 3 + ["mamba"])
    config.swiglu_limits = limits
    model = PaddedKindsModel(config).eval()
    with pytest.raises(Exception, match="must be equal to the number of `layer_types`"):
        model.save_pretrained(tmp_path)
    pruned = remove_layers(model, [0, 3], check=False)
    assert pruned.config.layer_types == [kinds[i] for i in (1, 2, 4)]
    assert pruned.config.swiglu_limits == [limits[i] for i in (1, 2, 4, 5, 6)]  # it has no say in this one
    assert config.layer_types == kinds
    pruned.save_pretrained(tmp_path)
    assert torch.equal(logits(PaddedKindsModel.from_pretrained(tmp_path).eval()), logits(pruned))


@pytest.mark.parametrize("model_type", ["axk1", "glm4_moe_lite", "hy_v3"])
def test_types_whose_mlp_layer_types_may_go_on_keep_what_is_behind(model_type, tmp_path):
    """transformers looks at this list only where there is a layer_types; the others refuse a longer one at loading."""
    model = build(model_type)
    depth = model.config.num_hidden_layers
    model.config.mlp_layer_types = [*model.config.mlp_layer_types, "dense", "sparse"]
    pruned = remove_layers(model, [depth - 1])
    assert pruned.config.mlp_layer_types == [*model.config.mlp_layer_types[: depth - 1], "dense", "sparse"]
    pruned.save_pretrained(tmp_path)
    assert torch.equal(logits(type(pruned).from_pretrained(tmp_path).eval()), logits(pruned))

"""PEFT adapters through a removal: saved from the pruned model, they load into the pruned base as they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM

from layershap import remove_layers, remove_sublayers, skip_layers

from .helpers.models import load_stories
from .helpers.surgery import logits

peft = pytest.importorskip("peft")

REMOVED = [1, 3]


def experts() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    return MixtralForCausalLM(
        MixtralConfig(**sizes, vocab_size=128, num_hidden_layers=5, num_local_experts=2, num_experts_per_tok=1)
    ).eval()


def lora(**fields: object) -> object:
    return peft.LoraConfig(**{"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], **fields})


def adapted(base: nn.Module, config: object) -> nn.Module:
    tuned = peft.get_peft_model(base, config).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return tuned


def comes_back(pruned: nn.Module, base: nn.Module, folder: object) -> bool:
    pruned.save_pretrained(folder)
    return torch.equal(logits(peft.PeftModel.from_pretrained(base, folder).eval()), logits(pruned))


CONFIGS = {
    "every layer": lora(),
    "suffixes": lora(target_modules=["layers.0.mlp.up_proj", "2.self_attn.v_proj", "4.self_attn.q_proj"]),
    "a regular expression": lora(target_modules=r"model\.layers\.[124]\.mlp\.(up|down)_proj"),
    "layer indices": lora(layers_to_transform=[0, 3, 4]),
    "one index": lora(layers_to_transform=2, layers_pattern="layers"),
    "indices of removed layers only": lora(layers_to_transform=[1, 3]),
    "exclusions": lora(exclude_modules=["layers.2.self_attn.q_proj"]),
    "excluded by a regular expression": lora(exclude_modules=r".*\.[03]\..*"),
    "ranks by suffix": lora(rank_pattern={"layers.2.self_attn.q_proj": 3, "0.self_attn.q_proj": 1}),
    "ranks by regular expression": lora(rank_pattern={r"layers\.(2|3)\.self_attn\.q_proj": 3}),
    "alphas": lora(alpha_pattern={"4.self_attn.q_proj": 9, "model.layers.2.self_attn.q_proj": 1}),
    "modules of layers saved": lora(modules_to_save=["layers.2.mlp", "norm"]),
    "IA3": peft.IA3Config(target_modules=["k_proj", "2.mlp.down_proj"], feedforward_modules=["2.mlp.down_proj"]),
    "LoKr": peft.LoKrConfig(r=2, target_modules=["layers.4.self_attn.o_proj"], rank_pattern={"4.self_attn.o_proj": 1}),
}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.filterwarnings("ignore::layershap.exceptions.CheckpointWarning")
def test_adapters_load_into_the_pruned_base(kind, tmp_path):
    tuned = adapted(load_stories(), CONFIGS[kind])
    with skip_layers(tuned, REMOVED):
        expected = logits(tuned)
    pruned = remove_layers(tuned, REMOVED)
    assert torch.equal(logits(pruned), expected)
    assert comes_back(pruned, remove_layers(load_stories(), REMOVED), tmp_path / "once")
    twice = remove_layers(remove_layers(tuned, [1]), [2])
    assert comes_back(twice, remove_layers(load_stories(), REMOVED), tmp_path / "twice")


@pytest.mark.parametrize("names", [["experts.gate_up_proj"], ["layers.2.mlp.experts.down_proj", "4.mlp.gate.weight"]])
@pytest.mark.parametrize("ranks", [{}, {"layers.2.mlp.experts.down_proj": 1}], ids=["one rank", "ranks"])
def test_adapters_of_parameters(names, ranks, tmp_path):
    config = lora(target_modules=None, target_parameters=names, rank_pattern=ranks)
    tuned = adapted(experts(), config)
    with skip_layers(tuned, REMOVED):
        expected = logits(tuned)
    pruned = remove_layers(tuned, REMOVED)
    assert torch.equal(logits(pruned), expected)
    assert comes_back(pruned, remove_layers(experts(), REMOVED), tmp_path)


def test_replicated_layers_are_built_from_the_whole_base(tmp_path):
    config = lora(layer_replication=[[0, 4], [2, 5]], target_modules=["layers.5.self_attn.q_proj", "2.mlp.up_proj"])
    tuned = adapted(load_stories(), config)
    assert len(tuned.base_model.model.model.layers) == 7
    with skip_layers(tuned, [1, 4]):
        expected = logits(tuned)
    pruned = remove_layers(tuned, [1, 4])
    assert torch.equal(logits(pruned), expected)
    assert pruned.peft_config["default"].layer_replication == [[0, 1], [2, 4], [3, 5]]
    assert comes_back(pruned, load_stories(), tmp_path)


def test_two_adapters_keep_their_own_modules(tmp_path):
    tuned = adapted(load_stories(), lora(target_modules=["2.self_attn.q_proj"]))
    tuned.add_adapter(
        "other", lora(target_modules=["2.self_attn.v_proj", "4.self_attn.q_proj"], init_lora_weights=False)
    )
    pruned = remove_layers(tuned, REMOVED)
    held = {name: config.target_modules for name, config in pruned.peft_config.items()}
    assert held["default"] == {"model.layers.1.self_attn.q_proj"}
    assert held["other"] == {"model.layers.1.self_attn.v_proj", "model.layers.2.self_attn.q_proj"}
    pruned.save_pretrained(tmp_path)
    pruned.set_adapter("other")
    again = peft.PeftModel.from_pretrained(remove_layers(load_stories(), REMOVED), tmp_path / "other").eval()
    assert torch.equal(logits(again), logits(pruned))


def test_a_name_that_ends_another_is_told_apart():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.language, self.layers = load_stories(), load_stories().model.layers

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.language(ids).logits

    chosen = r"layers\.2\.self_attn\.q_proj|language\.model\.layers\.1\.self_attn\.q_proj"
    pruned = remove_layers(adapted(Both(), lora(target_modules=chosen)), [0], stack=None)
    expected = r"language\.model\.layers\.0\.self_attn\.q_proj|layers\.2\.self_attn\.q_proj"
    assert pruned.peft_config["default"].target_modules == expected


@pytest.mark.filterwarnings("ignore::layershap.exceptions.CheckpointWarning")
def test_adapters_of_removed_sublayers_are_not_asked_for(tmp_path):
    tuned = adapted(load_stories(), lora(target_modules=["layers.1.self_attn.q_proj", "layers.2.mlp.up_proj"]))
    pruned = remove_sublayers(tuned, [2])
    assert comes_back(pruned, remove_sublayers(load_stories(), [2]), tmp_path)


def test_adapters_injected_without_a_wrapper():
    config = lora(target_modules=["layers.0.self_attn.q_proj", "layers.2.self_attn.q_proj"], init_lora_weights=False)
    model = peft.inject_adapter_in_model(config, load_stories())
    pruned = remove_layers(model, REMOVED)
    names = {"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"}
    assert pruned.peft_config["default"].target_modules == names
    assert model.peft_config["default"].target_modules == set(config.target_modules)

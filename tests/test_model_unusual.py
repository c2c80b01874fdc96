"""Models and arguments that are not the plain case: which are served, which are refused, and what is left untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BartConfig, BartForCausalLM, LlavaForConditionalGeneration

from layershap import LayerGame, LayerPruner, find_layers, remove_layers, skip_layers
from layershap.exceptions import UnsupportedModelError

from .architectures.build import build, token_ids
from .helpers.families import tiny_llava
from .helpers.models import Block, Unknown, load_stories
from .helpers.surgery import logits, state


def test_negative_indices_count_from_the_end():
    model = load_stories()
    assert torch.equal(logits(remove_layers(model, [-1, -4])), logits(remove_layers(model, [1, 4])))
    with skip_layers(model, [-2]):
        expected = logits(model)
    with skip_layers(model, [3]):
        assert torch.equal(logits(model), expected)
    pruner = LayerPruner(n_masks=15, protect=[-1], random_state=0).fit(model, token_ids())
    assert pruner.removable_.tolist() == [True] * 4 + [False]


@pytest.mark.parametrize("use", [find_layers, lambda m: remove_layers(m, [0]), lambda m: LayerGame(m, token_ids())])
def test_the_decoder_of_an_encoder_decoder_is_served_by_itself(use):
    config = BartConfig(
        vocab_size=128, d_model=16, encoder_layers=2, decoder_layers=4, encoder_ffn_dim=16, decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    use(BartForCausalLM(config))


def test_the_text_tower_of_a_vision_language_model_is_pruned_and_the_rest_left_alone(tmp_path):
    model = tiny_llava()
    image = {
        "input_ids": torch.tensor([[1, 5, 5, 5, 5, 9, 12]]),
        "pixel_values": torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
    }
    with torch.inference_mode(), skip_layers(model, [1]):
        expected = model(**image).logits.clone()
    pruned = remove_layers(model, [1], check=True)

    assert find_layers(model).path == "model.language_model.layers"
    assert pruned.config.text_config.num_hidden_layers == 3
    assert pruned.config.vision_config.num_hidden_layers == 4
    with LayerGame(model, token_ids()) as game:
        assert game.n_players == 4
        assert game([[True] * 4])[0] == pytest.approx(1.0)
    vision = {name: tensor for name, tensor in state(model).items() if "vision" in name or "projector" in name}
    assert vision
    assert all(torch.equal(pruned.state_dict()[name], tensor) for name, tensor in vision.items())
    with torch.inference_mode():
        assert torch.equal(pruned(**image).logits, expected)
        pruned.save_pretrained(tmp_path)
        again = LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
        assert torch.equal(again(**image).logits, expected)


class TwoStacks(nn.Module):
    """Two lists of as many layers: alike ('twin'), of which one is never called ('spare'), or called twice ('loop')."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.embedding = nn.Embedding(128, 16)
        self.lower = nn.ModuleDict({"blocks": nn.ModuleList(Block(i) for i in range(3))})
        self.upper = nn.ModuleDict({"blocks": nn.ModuleList(Block(i) for i in range(3))})
        self.head = nn.Linear(16, 128)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids)
        for _ in range(2 if self.kind == "loop" else 1):
            for block in self.lower["blocks"]:
                hidden = block(hidden)
        for block in self.upper["blocks"] if self.kind != "spare" else ():
            hidden = block(hidden)
        return self.head(hidden)


def test_two_lists_that_fit_equally_must_be_told_apart():
    model = TwoStacks("twin")
    with pytest.raises(UnsupportedModelError, match=r"'lower.blocks' and 'upper.blocks'.*Name it"):
        remove_layers(model, [0])
    with skip_layers(model, [0], stack="upper.blocks"):
        expected = logits(model)
    pruned = remove_layers(model, [0], stack="upper.blocks")
    assert (len(pruned.lower["blocks"]), len(pruned.upper["blocks"])) == (3, 2)
    assert torch.equal(logits(pruned), expected)


def test_of_two_lists_the_one_that_the_forward_calls_is_found():
    assert find_layers(TwoStacks("spare")).path == "lower.blocks"


def test_a_list_that_is_no_chain_is_refused():
    model = TwoStacks("loop")
    assert find_layers(model).path == "upper.blocks"
    with pytest.raises(
        UnsupportedModelError, match=r"lower.blocks: .* in the order \[0, 1, 2, 0, 1, 2\], not once each"
    ):
        remove_layers(model, [0], stack="lower.blocks")
    backwards = Unknown(nn.ModuleList)
    with pytest.raises(UnsupportedModelError, match=r"in the order \[3, 2, 1, 0\]"):
        find_layers(backwards, list(backwards.blocks)[::-1])


def test_a_layer_spread_over_parallel_lists_is_refused():
    with pytest.raises(UnsupportedModelError, match="no list of decoder layers found in XLMWithLMHeadModel"):
        remove_layers(build("xlm"), [0])


@pytest.mark.parametrize("copied", [True, False])
def test_gradients_hooks_and_training_flags_stay(copied):
    model = load_stories().train()
    layers = model.model.layers
    layers[0].eval()
    for parameter in layers[3].parameters():
        parameter.requires_grad_(False)
    model(token_ids()).logits.sum().backward()
    calls: list[nn.Module] = []
    layers[3].register_forward_hook(lambda module, args, output: calls.append(module))
    gradient = layers[4].mlp.up_proj.weight.grad.clone()

    with skip_layers(model, [1]), pytest.raises(ZeroDivisionError):
        _ = 1 / 0
    pruned = remove_layers(model, [1], copy=copied, check=True)

    assert torch.equal(model.model.layers[-1].mlp.up_proj.weight.grad, gradient)
    for kept, trained in ((pruned, pruned.model.layers), (model, model.model.layers)):
        assert kept.training
        assert [layer.training for layer in trained] == [False] + [True] * (len(trained) - 1)
        frozen = [not any(p.requires_grad for p in layer.parameters()) for layer in trained]
        assert frozen == [False] * (len(trained) - 2) + [True, False]
        assert all("forward" not in vars(module) for module in kept.modules())
        calls.clear()
        kept(token_ids())
        assert calls == [trained[-2]]


@pytest.mark.parametrize("granularity", ["layer", "sublayer"])
def test_scoring_leaves_modes_gradients_and_hooks_as_they_were(granularity):
    model = load_stories().train()
    model.model.layers[0].eval()
    model.lm_head.weight.requires_grad_(False)
    model.model.layers[3].register_forward_hook(lambda module, args, output: None)
    model(token_ids()).logits.sum().backward()
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    needs = [parameter.requires_grad for parameter in model.parameters()]
    gradients = [parameter.grad for parameter in model.parameters()]
    before = [None if gradient is None else gradient.clone() for gradient in gradients]
    weights = state(model)
    with LayerGame(model, token_ids(), granularity=granularity) as game:
        masks = np.random.default_rng(0).random((4, game.n_players)) < 0.5
        game(masks)
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert [parameter.requires_grad for parameter in model.parameters()] == needs
    assert all(parameter.grad is gradient for parameter, gradient in zip(model.parameters(), gradients, strict=True))
    assert all(a is b or torch.equal(a, b) for a, b in zip(gradients, before, strict=True))
    assert all("forward" not in vars(module) for module in model.modules())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_a_refused_removal_changes_nothing():
    model = load_stories().train()
    before = state(model)
    for layers in (range(5), [7], [1, -4]):
        with pytest.raises(ValueError):
            remove_layers(model, layers, copy=False)
    assert model.training
    assert model.config.num_hidden_layers == 5
    assert state(model).keys() == before.keys()

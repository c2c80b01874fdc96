"""Models: the published stories260K checkpoint (Llama, 5 layers), and tiny ones that are no plain case."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

STORIES = Path(__file__).parents[1] / "data" / "stories260K"


def load_stories() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(STORIES).eval()


def tiny_gpt2(**settings: object) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_layer": 4, "n_embd": 32, "n_head": 4, "vocab_size": 128, "n_positions": 64}
    config = GPT2Config(**{**sizes, **settings}, bos_token_id=1, eos_token_id=1)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


class Block(nn.Module):
    def __init__(self, index: int) -> None:
        super().__init__()
        self.layer_idx = index
        self.linear = nn.Linear(16, 16)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + torch.tanh(self.linear(hidden))


class Unknown(nn.Module):
    """A causal model that transformers has never seen."""

    def __init__(self, container: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(128, 16)
        blocks = [Block(index) for index in range(4)]
        self.blocks = nn.ModuleList(blocks) if container is nn.ModuleList else nn.Sequential(*blocks)
        self.head = nn.Linear(16, 128)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


class CarriesState(nn.Module):
    """Layers that read something besides their input: replaying them from a capture would be wrong."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(64, 16)
        self.blocks = nn.ModuleList(Remembering(self) for _ in range(4))
        self.head = nn.Linear(16, 64)
        self.seen = 0.0

    def forward(self, ids):
        hidden = self.embed(ids)
        self.seen = hidden.mean(dim=-1, keepdim=True)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


class Remembering(nn.Module):
    def __init__(self, parent):
        super().__init__()
        self.linear = nn.Linear(16, 16)
        object.__setattr__(self, "parent", parent)

    def forward(self, hidden):
        out = hidden + torch.tanh(self.linear(hidden)) + self.parent.seen
        self.parent.seen = self.parent.seen + out.mean(dim=-1, keepdim=True)
        return out


class CarriesAStream(nn.Module):
    """Each layer returns a second value, which the parent gives to the next."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(64, 16)
        self.blocks = nn.ModuleList(StreamLayer() for _ in range(4))
        self.head = nn.Linear(32, 64)

    def forward(self, ids):
        hidden, stream = self.embed(ids), None
        for block in self.blocks:
            hidden, stream = block(hidden, stream)
        stream = torch.zeros_like(hidden) if stream is None else stream
        return self.head(torch.cat([hidden, stream], dim=-1))


class StreamLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, hidden, stream):
        out = hidden + torch.tanh(self.linear(hidden if stream is None else hidden + stream))
        return out, torch.sin(out)

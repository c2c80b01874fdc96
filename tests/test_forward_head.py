"""The head's working memory, counted in the storages of torch: a small multiple of one chunk of logits."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from layershap.calibration import IGNORE, as_calibration
from layershap.forward.engine import Engine
from layershap.forward.head import sequence_sums
from layershap.forward.settings import EngineSettings
from layershap.forward.unmasked import sequence_statistics
from layershap.masks import distinct
from layershap.model.split import find_players
from tests.helpers.forward import engine_for, plain

VOCABULARY = 30_000
CHUNK = 8 * 2**20  # bytes of float32 logits: 69 tokens


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operations made and that still live, and their peak; a model's own don't count."""

    def __init__(self, model):
        super().__init__()
        self.live = {parameter.untyped_storage().data_ptr(): 0 for parameter in model.parameters()}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.live:
                storage = tensor.untyped_storage()
                self.live[storage.data_ptr()] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, storage.data_ptr())
        return result

    def _freed(self, pointer):
        self.now -= self.live.pop(pointer)


def two_layers(dtype):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_hidden_layers=2, **sizes)).eval().to(dtype)


@pytest.mark.parametrize(
    ("statistics", "dtype", "chunks"),
    [
        (("kl",), torch.float32, 1.0),
        (("kl",), torch.bfloat16, 1.25),  # with the logits in the model's precision beside those in float32
        (("kl_top20",), torch.float32, 1.0),
        (("nll",), torch.float32, 1.5),  # logits, and log-probabilities of a few positions
        (("nll", "hits"), torch.bfloat16, 1.5),  # twice as many positions as in float32
    ],
)
def test_the_head_works_within_a_small_multiple_of_a_chunk(statistics, dtype, chunks):
    """Measured: 0.91 chunks for kl (1.08 in bfloat16), 0.87 for kl_top20."""
    model = two_layers(dtype)
    calibration = as_calibration(torch.randint(1, VOCABULARY, (4, 48)))
    settings = EngineSettings(batch_tokens=2048, memory_budget=2**30, head_bytes=CHUNK)
    engine = Engine(model, find_players(model, None, "layer"), calibration, statistics, settings)
    assert engine.path == "fused"
    masks_ML = distinct(np.array([[True, True], [True, False], [False, True], [False, False]]))
    memory = LiveBytes(model)
    with memory:
        engine.run(masks_ML, lambda work: None)
    assert 0.5 * CHUNK < memory.peak <= chunks * CHUNK
    assert memory.peak < 4 * VOCABULARY * calibration.ids_ST.numel()  # the logits of one mask alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_observing_the_layers_calls_never_holds_the_logits_of_a_block(dtype):
    """Two of its sixteen sequences have theirs, where the fused forward is compared with the model's own."""
    model = two_layers(dtype)
    calibration = as_calibration(torch.randint(1, VOCABULARY, (16, 48)))
    settings = EngineSettings(batch_tokens=2048, memory_budget=2**30, head_bytes=CHUNK)
    players = find_players(model, None, "layer")
    memory = LiveBytes(model)
    with memory:
        engine = Engine(model, players, calibration, ("nll",), settings)
        assert engine.path == "fused"
    assert len(engine.tokens.blocks) == 1
    assert memory.peak < 0.2 * dtype.itemsize * VOCABULARY * calibration.ids_ST.numel()


def test_the_models_own_forward_holds_the_logits_of_one_block():
    model = two_layers(torch.float32)
    calibration = as_calibration(torch.randint(1, VOCABULARY, (16, 48)))
    of_a_block = 4 * VOCABULARY * 4 * 48
    with LiveBytes(model) as memory:
        sequence_statistics(model, calibration, ("nll",), batch_tokens=4 * 48)
    assert of_a_block <= memory.peak < 1.2 * of_a_block
    engine = engine_for(model, calibration, batch_tokens=4 * 48)
    with LiveBytes(model) as memory:
        plain(engine, np.array([[True, False], [True, True]]))
    assert of_a_block <= memory.peak < 1.2 * of_a_block


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_hits_of_a_few_positions_at_a_time_are_those_of_all(dtype):
    logits = (4 * torch.randn(2, 23, VOCABULARY, generator=torch.Generator().manual_seed(0))).to(dtype)
    labels = torch.randint(0, VOCABULARY, (2, 23), generator=torch.Generator().manual_seed(1))
    labels[0, 3] = IGNORE
    labels[1, ::2] = logits[1, ::2].float().argmax(dim=-1)
    found = sequence_sums(logits, labels, ("nll", "hits"))
    whole = logits.float()
    losses = nn.functional.cross_entropy(
        whole.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORE
    ).view(labels.shape)
    assert torch.equal(found["nll"], losses.double().sum(dim=1))
    assert torch.equal(found["hits"], (whole.argmax(dim=-1) == labels).double().sum(dim=1))
    assert found["hits"][1] >= 12


def test_a_broken_logit_is_no_miss():
    logits = torch.zeros(1, 3, 50)
    logits[0, 1, 7] = torch.nan
    found = sequence_sums(logits, torch.zeros(1, 3, dtype=torch.long), ("hits",))
    assert found["hits"].isnan().all()

"""A model of half precision computes in float32 for a while, to the bit like a float32 copy, and is then as it was."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from accelerate import cpu_offload

from layershap import LayerGame
from layershap.datasets import tiny_random
from layershap.model.split import find_players
from layershap.model.upcast import in_float32, is_narrow, why_not_float32
from layershap.shapley import all_masks

from .helpers.models import tiny_gpt2
from .helpers.texts import IDS

KINDS = ["gpt2", "llama", "mamba", "gemma3_text"]


def state_of(model):
    return {name: (id(tensor), tensor.dtype) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("granularity", ["layer", "sublayer"])
def test_scores_are_those_of_a_float32_copy(kind, dtype, granularity):
    if kind == "mamba" and granularity == "sublayer":
        pytest.skip("its layers have one part")
    model = tiny_random(kind, n_layers=4).to(dtype).eval()
    copy = deepcopy(model).float()
    before = state_of(model)
    with LayerGame(copy, IDS, granularity=granularity) as game:
        masks = all_masks(game.n_players)[::5]
        expected, path = game.statistics(masks), game.path
    with LayerGame(model, IDS, granularity=granularity) as game:
        narrow = game.statistics(masks)
    with (
        in_float32(model, find_players(model, None, granularity).layers),
        LayerGame(model, IDS, granularity=granularity) as game,
    ):
        found = game.statistics(masks)
        assert game.path == path
    assert np.array_equal(found.sums["nll"], expected.sums["nll"])
    assert not np.array_equal(narrow.sums["nll"], expected.sums["nll"])
    assert state_of(model) == before
    with LayerGame(model, IDS, granularity=granularity) as game:
        assert np.array_equal(game.statistics(masks).sums["nll"], narrow.sums["nll"])


def test_only_one_layer_is_wide_at_a_time_and_all_are_narrow_again_after_an_error():
    model = tiny_random("llama", n_layers=4).to(torch.bfloat16).eval()
    layers = list(model.model.layers)
    before, wide = state_of(model), []

    def look(module, arguments):
        wide.append([next(layer.parameters()).dtype == torch.float32 for layer in layers])
        if len(wide) == 3:
            raise RuntimeError("in the middle of a layer")

    for layer in layers:
        layer.mlp.register_forward_pre_hook(look)
    with pytest.raises(RuntimeError, match="in the middle"), in_float32(model, layers), torch.no_grad():
        model(IDS)
    assert wide == np.eye(4, dtype=bool)[:3].tolist()
    assert state_of(model) == before


def test_what_it_serves():
    model = tiny_gpt2()
    assert not is_narrow(model)
    assert is_narrow(model.half())
    assert why_not_float32(model) == ""
    assert why_not_float32(cpu_offload(tiny_gpt2().half())) == "the weights are offloaded"
    model.transformer.h[0].mlp.c_fc.weight = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), False)
    assert why_not_float32(model) == "the weights are quantised"

"""Targets of speed: measured on physically pruned models that share the model's weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from layershap import UnreachableTargetError, remove_layers, skip_layers
from layershap.baselines import LastLayers
from layershap.environment import current_environment
from layershap.model.split import find_players
from layershap.report import SpeedRecord, measure_outcome
from layershap.report.curve import outcome_speed
from layershap.targets import MaxLatency, MinThroughput, RemovalSpeed
from layershap.targets.timing import measure_removals, pruned_view

from .architectures.build import build
from .helpers.surgery import logits, state

SHORT = {"prompt_tokens": 48, "new_tokens": 1}


@pytest.fixture(scope="module")
def last(gpt2):
    return LastLayers().fit(gpt2[0])


def speed(prefill, decode=None, batch_size=1):
    return SpeedRecord(batch_size, 8, 2, prefill, batch_size * 8 / prefill, decode, decode and batch_size / decode)


@pytest.mark.parametrize("kind", ["gpt2", "stories"])
def test_a_view_is_the_pruned_model_and_holds_no_weights_of_its_own(kind, request):
    model, _ = request.getfixturevalue(kind)
    before = state(model)
    view = pruned_view(model, find_players(model), [1, 3])
    own = {p.data_ptr() for p in model.parameters()}
    assert all(p.data_ptr() in own for p in view.parameters())
    with skip_layers(model, [1, 3]):
        assert torch.equal(logits(view), logits(model))
    assert torch.equal(logits(view), logits(remove_layers(model, [1, 3], check=False)))
    assert len(find_players(model)) == len(find_players(view)) + 2
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_model_that_scales_its_weights_by_depth_keeps_them():
    """rwkv: surgery undoes a scaling of the kept layers' weights, which must not reach the model itself."""
    model = build("rwkv").eval()
    model.config.rescale_every = 1
    expected = logits(model)  # in evaluation its weights are scaled in place, once
    before = state(model)
    view = pruned_view(model, find_players(model), [1])
    measure_removals(model, find_players(model), [[], [2]], prompt_tokens=4, new_tokens=1, repeats=1)
    assert torch.equal(logits(view), logits(remove_layers(model, [1])))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(logits(model), expected)


def test_the_smallest_removal_measured_that_meets_a_speed(last, gpt2):
    model, _ = gpt2
    whole, least = measure_removals(model, find_players(model), [[], last.removed_layers(11)], batch_size=2, **SHORT)
    between = (whole.prefill_seconds * least.prefill_seconds) ** 0.5  # some three times either
    for target in (
        MaxLatency(between, "prefill", 2, **SHORT),
        MinThroughput(2 * SHORT["prompt_tokens"] / between, "prefill", 2, **SHORT),
    ):
        found = last.choose_n_remove(model, target)
        measured = dict(zip(found.speed.depths, found.speed.records, strict=True))
        met = {
            n: target.reading(record) <= between
            if isinstance(target, MaxLatency)
            else target.reading(record) >= target.tokens_per_second
            for n, record in measured.items()
        }
        assert found.reached == target.reading(measured[found.n_remove])
        assert met[found.n_remove]
        assert not met[found.n_remove - 1], "the next smaller one was measured and is too slow"
        assert {0, 11} < set(measured)
        assert found.speed.records[0].batch_size == 2
        assert "measured" in str(found)
    assert len(find_players(model)) == 12


def test_an_unreachable_speed_names_the_nearest_and_one_met_is_none(last, gpt2):
    with pytest.raises(UnreachableTargetError, match=r"n_remove=11 with [\d.]+ ms, measured") as caught:
        last.transform(gpt2[0], target=MaxLatency(1e-9, **SHORT | {"new_tokens": 8}))
    assert caught.value.nearest.n_remove == 11
    with pytest.raises(ValueError, match=r"whole model already meets the target .*: it has [\d.]+ ms, measured"):
        last.transform(gpt2[0], target=MaxLatency(1e3, "prefill", **SHORT))


class Plain(nn.Module):
    """Layers without a way to generate."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(16, 8), nn.Linear(8, 16)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, ids_BT):
        hidden_BTD = self.embed(ids_BT)
        for layer in self.layers:
            hidden_BTD = hidden_BTD + layer(hidden_BTD)
        return self.head(hidden_BTD)


def test_a_model_that_can_not_generate_has_no_decode_speed():
    model = Plain()
    pruner = LastLayers(layers="layers").fit(model)
    with pytest.raises(ValueError, match="Plain has no decode speed"):
        pruner.choose_n_remove(model, MaxLatency(1e-3, prompt_tokens=4, new_tokens=1))
    assert pruner.measure_removal_speed(model, [2], prompt_tokens=4, new_tokens=1).seconds("decode", 1) is None


def test_estimates_lie_on_a_line_between_what_was_measured():
    found = RemovalSpeed((0, 4, 8), (speed(1.0, 0.5), speed(0.8, None), speed(0.2, 0.1)), current_environment())
    assert [found.seconds("prefill", n) for n in (0, 2, 4, 6, 8)] == pytest.approx([1.0, 0.9, 0.8, 0.5, 0.2])
    assert found.seconds("prefill", 9) == pytest.approx(0.1)
    assert found.seconds("prefill", 10) is None  # the line has reached 0
    assert found.seconds("decode", 4) == pytest.approx(0.3)
    assert RemovalSpeed((0,), (speed(1.0),), current_environment()).seconds("prefill", 1) is None
    noisy = RemovalSpeed((0, 4), (speed(1.0, -0.1), speed(0.5, 0.1)), current_environment())
    assert [noisy.seconds("decode", n) for n in (0, 4)] == [None, 0.1]


def test_a_curve_with_measured_speeds(last, gpt2):
    found = last.measure_removal_speed(gpt2[0], [2], prompt_tokens=8, new_tokens=1)
    assert found.depths == (0, 2)
    assert found.seconds("prefill", 2) == found.records[1].prefill_seconds
    players = find_players(gpt2[0])
    curve = last._curve(gpt2[0], players).with_sizes_of(gpt2[0], players).with_speed(found)
    table = curve.table()
    timed = [row[table.columns.index("timed")] for row in table.rows]
    assert timed == ["measured", "estimated", "measured"] + 9 * ["estimated"]
    assert "without 0, 2 layers" in table.note
    assert "score" not in table.columns
    for wrong in (12, -1):
        with pytest.raises(ValueError, match=r"n_remove must lie in \[1, 11\]"):
            last.measure_removal_speed(gpt2[0], [wrong])


def test_the_speed_of_a_reports_outcomes(gpt2):
    model, _ = gpt2
    two, four = (
        measure_outcome(
            model,
            remove_layers(model, range(n), check=False),
            batch_sizes=(1, 2),
            prompt_tokens=8,
            new_tokens=1,
            repeats=1,
        )
        for n in (2, 4)
    )
    found = outcome_speed([two, four])
    assert found.depths == (0, 2, 4)
    assert found.records[1:] == (two.after.speed[0], four.after.speed[0])
    assert found.records[0] in (two.before.speed[0], four.before.speed[0])
    elsewhere = dataclasses.replace(two, environment=dataclasses.replace(two.environment, device="another"))
    assert outcome_speed([elsewhere, four]).depths == (0, 4)
    assert outcome_speed([]) is None

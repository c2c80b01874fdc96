"""The layers are searched for once and weights read once, whatever is fitted on how many parts of the text."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import pytest

from layershap import Greedy, LayerGame, LayerPruner, PairwiseRidge, ShapleyRanking, compare, find_layers, inspect
from layershap.baselines import SLEB, ShortenedLlama, ShortGPT
from layershap.calibration import Calibration
from layershap.datasets import load_calibration_text, load_tiny_gpt2, tiny_random
from layershap.fingerprint import fields
from layershap.forward import fused
from layershap.model import stack


@contextmanager
def counted(model, monkeypatch):
    """How often the model is run as a whole, its layers are searched for, and its weights are read."""
    found = Counter()

    def counting(module, name):
        original = getattr(module, name)

        def call(*args, **kwargs):
            found[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    counting(stack, "probe_calls")
    counting(fields, "weights_digest")
    counting(fused, "sequence_sums")
    handle = model.register_forward_pre_hook(lambda *_: found.update(["forwards"]))
    yield found
    # The head of each masked model is a forward whose layers do nothing: no probe.
    found["forwards"] -= found.pop("sequence_sums", 0)
    handle.remove()
    monkeypatch.undo()


@pytest.fixture(scope="module")
def gpt2():
    model, tokenizer = load_tiny_gpt2()
    text = " ".join(load_calibration_text())
    return model, Calibration.from_texts(text, tokenizer, seq_len=32, n_sequences=40)


def quick(**settings):
    return LayerPruner(n_masks=40, max_remove=1, surrogate=PairwiseRidge(), random_state=0, **settings)


def test_a_fit_on_one_part_of_the_text(gpt2, monkeypatch):
    model, text = gpt2
    ten = Calibration(text.ids_ST[:10], text.labels_ST[:10])
    with counted(model, monkeypatch) as found:
        quick(selector=ShapleyRanking()).fit(model, ten)
    assert found == {"probe_calls": 1, "weights_digest": 1, "forwards": 9}


def test_a_fit_that_races_on_parts_of_the_text(gpt2, monkeypatch, tmp_path):
    model, text = gpt2
    with counted(model, monkeypatch) as found:
        quick(selector=Greedy(), ledger=tmp_path / "masks.jsonl").fit(model, text)
    assert len(list(tmp_path.glob("masks.jsonl*[0-9a-f]"))) > 1
    assert found == {"probe_calls": 1, "weights_digest": 1, "forwards": 33}


def test_a_comparison_of_three_methods(gpt2, monkeypatch):
    model, text = gpt2
    ten = Calibration(text.ids_ST[:10], text.labels_ST[:10])
    methods = {"one-shot": ShortenedLlama(), "ShortGPT": ShortGPT(), "SLEB": SLEB()}
    with counted(model, monkeypatch) as found:
        compare(model, ten, ten, methods, [1])
    assert found == {"probe_calls": 1, "forwards": 20}  # no ledger asks for the weights


def test_games_and_inspections_take_what_was_found(gpt2, monkeypatch):
    model, text = gpt2
    with counted(model, monkeypatch) as found:
        inspect(model)
        assert found["probe_calls"] == 1
        layers = find_layers(model)
        with LayerGame(model, text, layers=layers) as game, game.on(text) as other:
            assert other.stack is game.stack
        inspect(model, layers)
    assert found["probe_calls"] == 2
    assert found["weights_digest"] == 0


def test_players_of_another_model_are_refused(gpt2):
    layers = find_layers(tiny_random("gpt2", n_layers=4))
    with pytest.raises(ValueError, match="must be a submodule of the GPT2LMHeadModel given"):
        LayerPruner(layers=layers).fit(*gpt2)

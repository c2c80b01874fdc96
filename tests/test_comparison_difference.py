"""How sure a difference of two methods' perplexities is, against the models' own losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from layershap import Calibration, Rescale, compare, remove_layers
from layershap.baselines import SLEB, FixedLayers, LastLayers, SliceGPT
from layershap.comparison.difference import paired_difference


@pytest.fixture(scope="module")
def held_out(stories):
    """Sequences of which other numbers of tokens count."""
    ids = torch.randint(5, 500, (5, 24), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    for row, length in enumerate((24, 9, 17, 24, 13)):
        labels[row, length:] = -100
    return Calibration(ids, labels)


@pytest.fixture(scope="module")
def table(stories, stories_calibration, held_out):
    methods = {"last": LastLayers(), "middle": FixedLayers([2, 1, 3]), "SLEB": SLEB(), "SliceGPT": SliceGPT()}
    scaled = {"scale": Rescale()}
    return compare(stories[0], stories_calibration, held_out, methods, [1, 2, 4], compensations=scaled)


def losses(model, calibration):
    """Each sequence's summed loss, by the model's own forward."""
    with torch.no_grad():
        logits = model(calibration.ids_ST, use_cache=False).logits[:, :-1].double()
    labels = calibration.labels_ST[:, 1:]
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=-100)
    return each.sum(dim=1).numpy()


def test_a_difference_is_that_of_the_pruned_models_with_the_jackknifes_error(table, stories, held_out):
    tokens = np.array([23, 8, 16, 23, 12])
    np.testing.assert_array_equal(table.tokens, tokens)
    last, middle = (losses(remove_layers(stories[0], layers), held_out) for layers in ([3, 4], [1, 2]))
    found = table.difference("last", "middle", 2)
    assert found.nll == pytest.approx((last - middle).sum() / tokens.sum(), rel=1e-4)
    rest = [np.delete(last - middle, s).sum() / np.delete(tokens, s).sum() for s in range(5)]
    assert found.std_error == pytest.approx(math.sqrt(4 / 5 * np.sum((rest - np.mean(rest)) ** 2)), rel=1e-3)
    ratio = table["last", 2].perplexity / table["middle", 2].perplexity
    assert found.percent == pytest.approx(100 * (ratio - 1), rel=1e-9)
    assert found.percent_error == pytest.approx(100 * ratio * found.std_error, rel=1e-9)


def test_a_paired_error_is_smaller_than_those_of_the_figures(table):
    nll = [table[method, 2].nll / table.tokens for method in ("last", "middle")]
    apart = math.hypot(*(np.std(values, ddof=1) / math.sqrt(5) for values in nll))
    assert 0 < table.difference("last", "middle", 2).std_error < apart


def test_the_other_way_round_it_has_the_other_sign(table):
    one, other = table.difference("last", "SliceGPT", 2), table.difference("SliceGPT", "last", 2)
    assert (one.nll, one.std_error) == pytest.approx((-other.nll, other.std_error))
    assert table.difference("last", "last", 2).nll == 0


def test_equal_sequences_have_the_standard_error_of_a_mean(stories, stories_calibration):
    methods = {"a": FixedLayers([1]), "b": FixedLayers([3])}
    table = compare(stories[0], stories_calibration, stories_calibration, methods, [1])
    assert len(set(table.tokens)) == 1
    apart = (table["a", 1].nll - table["b", 1].nll) / table.tokens
    want = np.std(apart, ddof=1) / math.sqrt(len(apart))
    assert table.difference("a", "b", 1).std_error == pytest.approx(want, rel=1e-9)


def test_against_shows_each_method_beside_one(table):
    shown = table.against("middle")
    names = [row[0] for row in shown.rows]
    assert names == ["last", "SLEB", "SliceGPT", "last + scale", "middle + scale", "SLEB + scale"]
    cells = dict(zip(names, (row[1:] for row in shown.rows), strict=True))
    assert cells["last"][1] == str(table.difference("last", "middle", 2))
    assert cells["last"][2] is None  # the order of three layers holds no set of four
    scaled = table.difference("middle + scale", "middle", 1)
    assert cells["middle + scale"][0] == f"{scaled.percent:+,.1f} ± {scaled.percent_error:.1f}%"
    assert "perplexity (sequences of 24 tokens as given, n = 5) above middle's" in str(shown)


def test_a_single_sequence_tells_no_error(stories, stories_calibration, held_out):
    methods, one = {"a": FixedLayers([1]), "b": FixedLayers([3])}, held_out.take(torch.tensor([0]))
    table = compare(stories[0], stories_calibration, one, methods, [1])
    found = table.difference("a", "b", 1)
    assert math.isnan(found.std_error)
    assert str(found) == f"{found.percent:+,.1f}%"


def test_broken_models():
    sound, broken = np.array([3.0, 4.0, 5.0]), np.array([3.0, np.nan, 5.0])
    tokens = np.ones(3)
    assert paired_difference(broken, sound, tokens).nll == math.inf
    assert paired_difference(sound, broken, tokens).nll == -math.inf
    assert math.isnan(paired_difference(broken, broken, tokens).nll)
    assert math.isnan(paired_difference(sound * np.inf, sound * np.inf, tokens).nll)
    assert str(paired_difference(broken, sound, tokens)) == "+inf%"


def test_what_is_not_there(table):
    with pytest.raises(KeyError, match="no method 'nobody'"):
        table.against("nobody")
    with pytest.raises(KeyError, match="no choice"):
        table.difference("last", "middle", 4)

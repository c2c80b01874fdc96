"""Published layer sets: sound as data, and those that other work on this paper has named."""

from __future__ import annotations

import pytest

from layershap.datasets import load_published_sets


def test_every_set_is_sound_and_says_where_it_stands():
    found = load_published_sets()
    assert len({(one.method, one.model, one.order) for one in found}) == len(found)
    for one in found:
        assert len(set(one.order)) == len(one.order) >= one.n_removed > 0
        assert all(0 <= layer < one.n_layers for layer in one.order)
        assert one.removed == tuple(sorted(one.removed))
        assert len(one.paper) == len("2602.07804")
        assert one.source
        assert one.ordered or len(one.order) == one.n_removed
        assert list(one.chosen) == list(one.order) if one.ordered else one.chosen == set(one.removed)


def test_the_papers_two_sets_for_llama_2_share_eight_layers():
    papers = [one for one in load_published_sets("meta-llama/Llama-2-7b-hf") if one.paper == "2602.07804"]
    first, second, quantised = papers
    assert len(first.removed) == len(second.removed) == 12
    assert len(set(first.removed) & set(second.removed)) == 8
    assert "GPTQ" in quantised.note


def test_a_models_last_name_is_enough():
    assert load_published_sets("llama-2-7B-hf") == load_published_sets("meta-llama/Llama-2-7b-hf")
    with pytest.raises(ValueError, match=r"no published set is known for the model 'gpt2', only for \["):
        load_published_sets("gpt2")

"""Greedy answers beside the dense model's: closed forms, plain transformers, and what is said of a collapse."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from layershap import GenerationCheck, Score, evaluate, remove_layers, side_by_side
from layershap.calibration import own_answers
from layershap.datasets import load_evaluation_text
from layershap.model.greedy import greedy_continuations, stop_tokens
from layershap.scoring.collapse import CALM_PERPLEXITY, LIKELIHOOD_FALL, REPETITION_RISE, collapse
from layershap.scoring.generation import equal_start, is_answer, repetition, text_of

from .helpers.models import CarriesState, Unknown
from .helpers.texts import TEXTS

PROMPTS = [text[:n] for text, n in zip(TEXTS, (12, 60, 33, 41), strict=False)]
NEW = 12


@pytest.fixture(scope="module")
def check(gpt2):
    return GenerationCheck.from_model(gpt2[0], PROMPTS, gpt2[1], max_new_tokens=NEW)


@pytest.fixture(scope="module")
def small(gpt2):
    return remove_layers(gpt2[0], [4, 7])


def one_by_one(model, prompt, n, stop):
    """The likeliest token by a whole forward on one prompt alone, again and again."""
    found = []
    while len(found) < n and not set(found) & stop:
        with torch.inference_mode():
            output = model(torch.tensor([[*prompt, *found]]))
        found.append(int(getattr(output, "logits", output)[0, -1].argmax()))
    return tuple(found)


# -- continuations ----------------------------------------------------------------------------------------------------


def test_continuations_are_those_of_each_prompt_alone(gpt2, stories):
    """Through the cache, in one batch of prompts of unlike lengths."""
    for (model, tokenizer), prompts in ((gpt2, PROMPTS), (stories, [*PROMPTS, "Once", "Lily was happy. The end."])):
        ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
        stop = stop_tokens(model, tokenizer)
        found = greedy_continuations(model, ids, max_new_tokens=NEW, stop=stop)
        assert found == [one_by_one(model, each, NEW, stop) for each in ids]


def test_in_half_precision_other_prompts_of_a_batch_change_an_answer_by_rounding_only(gpt2):
    model, tokenizer = copy.deepcopy(gpt2[0]).bfloat16(), gpt2[1]
    prompts = [text[:length] for text in TEXTS for length in (20, 45)]
    check = GenerationCheck.from_model(model, prompts, tokenizer, max_new_tokens=NEW)
    assert check.answers_of(copy.deepcopy(model)) == check.answers
    for prompt, together in zip(check.prompts, check.answers, strict=True):
        (alone,) = greedy_continuations(model, [prompt.ids], max_new_tokens=NEW, stop=check.stop)
        place = equal_start(together, alone)
        if together == alone:
            continue
        with torch.inference_mode():
            logits = gpt2[0](torch.tensor([[*prompt.ids, *alone[:place]]])).logits[0, -1]
        apart = abs(logits[together[place]] - logits[alone[place]])
        # Logits have a relative rounding of 2**-8 or less; so do the layers that they come from.
        assert apart <= 4 * 2**-8 * logits.abs().max()


def test_a_stop_token_ends_an_answer_but_not_a_prompt(stories):
    model = stories[0]
    ids = [[1, 5, 9], [1, 33, 2, 20, 41, 2, 300, 22], [1]]
    whole = greedy_continuations(model, ids, max_new_tokens=NEW)
    stop = {whole[0][3], whole[1][5]}
    found = greedy_continuations(model, ids, max_new_tokens=NEW, stop=stop)
    for new, old in zip(found, whole, strict=True):
        ends = [place for place, token in enumerate(old) if token in stop]
        assert new == (old[: ends[0] + 1] if ends else old)
    assert [one_by_one(model, each, NEW, stop) for each in ids] == found


def test_modules_that_transformers_does_not_know_run_whole_forwards():
    ids = [[5, 6], [7, 8, 9, 10], [11]]
    for model in (Unknown(nn.ModuleList), CarriesState()):
        found = greedy_continuations(model, ids, max_new_tokens=6, stop={3})
        assert found == [one_by_one(model, each, 6, {3}) for each in ids]


def test_a_models_own_settings_are_left_out_of_account_and_left_alone(stories):
    model = copy.deepcopy(stories[0])
    plain = greedy_continuations(model, [[1, 5, 9]], max_new_tokens=NEW)
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0, max_length=7)
    before = model.generation_config.to_dict()
    assert greedy_continuations(model.train(), [[1, 5, 9]], max_new_tokens=NEW) == plain
    assert model.generation_config.to_dict() == before
    assert model.training


# -- scores -----------------------------------------------------------------------------------------------------------


def test_the_same_model_agrees_with_itself_everywhere(gpt2, check):
    model, tokenizer = gpt2
    for scored in (model, copy.deepcopy(model)):
        found = {score.metric: score for score in evaluate(scored, tokenizer, generation=check).scores}
        assert found["equal_answers"].value == found["equal_tokens"].value == 1.0
        assert found["equal_answers"].std_error == 0.0
        lengths = [len(answer) for answer in check.answers]
        assert found["first_divergence"].value == found["length"].value == np.mean(lengths)
        assert {score.protocol for score in found.values()} == {"greedy, up to 12 tokens"}
        assert {score.n for score in found.values()} == {4}


def test_scores_by_hand(gpt2, check, small):
    tokenizer = gpt2[1]
    found = {score.metric: score for score in evaluate(small, tokenizer, generation=check).scores}
    ids = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    stop = stop_tokens(gpt2[0], tokenizer)
    shares, starts, repeated = [], [], []
    for prompt, dense in zip(ids, check.answers, strict=True):
        assert dense == one_by_one(gpt2[0], prompt, NEW, stop)
        new = one_by_one(small, prompt, NEW, stop)
        same = [a == b for a, b in zip(new, dense, strict=False)]
        shares.append(sum(same) / max(len(new), len(dense)))
        starts.append(next((place for place, equal in enumerate(same) if not equal), len(same)))
        grams = [new[i : i + 4] for i in range(len(new) - 3)]
        repeated.append(sum(gram in grams[:place] for place, gram in enumerate(grams)) / len(grams))
    assert found["equal_tokens"].value == pytest.approx(np.mean(shares))
    assert found["equal_tokens"].std_error == pytest.approx(np.std(shares, ddof=1) / 2)
    assert found["first_divergence"].value == np.mean(starts) < NEW
    assert found["repetition"].value == pytest.approx(np.mean(repeated))
    assert found["equal_answers"].value < 1


def test_log_likelihood_is_that_of_plain_transformers(gpt2, check, small):
    tokenizer = gpt2[1]
    for model in (gpt2[0], small):
        total = count = 0.0
        for prompt, answer in zip(PROMPTS, check.answers, strict=True):
            ids = tokenizer(prompt)["input_ids"]
            whole = torch.tensor([[*ids, *answer]])
            labels = whole.clone()
            labels[0, : len(ids)] = -100
            with torch.inference_mode():
                total -= float(model(whole, labels=labels).loss) * len(answer)
            count += len(answer)
        found = evaluate(model, tokenizer, generation=check)["generation", "log_likelihood"]
        assert found.value == pytest.approx(total / count, abs=1e-4)


def test_padding_on_either_side_gives_the_same_scores(gpt2, check, small):
    model, tokenizer = gpt2[0], copy.deepcopy(gpt2[1])
    tokenizer.pad_token = tokenizer.eos_token
    for side in ("left", "right"):
        tokenizer.padding_side = side
        batch = tokenizer(PROMPTS, padding=True, return_tensors="pt")
        assert int(batch["attention_mask"].min()) == 0
        padded = GenerationCheck.from_model(model, batch, tokenizer, max_new_tokens=NEW)
        assert padded.answers == check.answers
        assert evaluate(small, tokenizer, generation=padded) == evaluate(small, tokenizer, generation=check)


def test_prompts_with_and_without_a_dense_model(gpt2, check, small):
    model, tokenizer = gpt2
    options = {"generation": PROMPTS, "max_new_tokens": NEW}
    alone = evaluate(small, tokenizer, **options)
    assert [score.metric for score in alone.scores] == ["repetition", "length"]
    compared = evaluate(small, tokenizer, dense=model, **options)
    assert compared == evaluate(small, tokenizer, generation=check)
    assert alone.scores == compared.scores[-2:]
    table = side_by_side({"dense": evaluate(model, tokenizer, generation=check), "pruned": compared})
    assert len(table.to_records()) == len(compared.scores)
    assert own_answers(model, PROMPTS, tokenizer, max_new_tokens=NEW).counts_S.tolist() == [*map(len, check.answers)]
    for wrong in ({"texts": TEXTS}, {"generation": check}):
        with pytest.raises(ValueError, match="dense answers prompts"):
            evaluate(small, tokenizer, dense=model, **wrong)


def test_exact_match_of_rows_with_answers(gpt2, small):
    model, tokenizer = gpt2
    said = [tokenizer.decode(answer) for answer in GenerationCheck.from_model(model, PROMPTS, tokenizer).answers]
    rows = [
        {"prompt": PROMPTS[0], "answer": f" {said[0].strip().splitlines()[0]}\n"},
        {"prompt": PROMPTS[1], "answer": "No model says this."},
        {"prompt": PROMPTS[2]},
    ]
    found = evaluate(model, tokenizer, generation=rows)["generation", "exact_match"]
    assert (found.value, found.n) == (0.5, 2)
    assert found.std_error == pytest.approx(0.5)
    with pytest.raises(ValueError, match="prompts with right answers need the model's tokenizer"):
        evaluate(small, generation=GenerationCheck.from_model(model, rows, tokenizer, max_new_tokens=2))
    assert is_answer(" Paris\nis the capital", "Paris")
    assert not is_answer("Paris is it", "Paris")
    assert is_answer("a\nb\n", "a\nb")
    assert text_of(tokenizer("The sea")["input_ids"] + [tokenizer.eos_token_id], tokenizer) == "The sea"


def test_repetition_and_first_divergence_in_closed_form():
    assert repetition((1, 2, 3, 4, 5)) == 0.0
    assert repetition((1,) * 13) == pytest.approx(9 / 10)  # ten runs of four, all the same
    assert repetition((1, 2)) == 0.0
    assert equal_start((1, 2, 3), (1, 2, 4)) == 2
    assert equal_start((1, 2), (1, 2, 3)) == 2
    assert equal_start((9,), (1, 2)) == 0


# -- collapse ---------------------------------------------------------------------------------------------------------


def scores(perplexity=20.0, **answers):
    found = [Score("novels", "perplexity", perplexity, 1.0, 8, False, "seq128")]
    return [*found, *(Score("generation", m, value, 0.1, 8, None, "greedy") for m, value in answers.items())]


@pytest.mark.parametrize(
    ("metric", "before", "harmless", "broken"),
    [
        ("repetition", 0.1, 0.1 + 0.9 * REPETITION_RISE, 0.1 + 1.1 * REPETITION_RISE),
        ("length", 40.0, 25.0, 4.0),
        ("length", 40.0, 70.0, 90.0),
        ("log_likelihood", -0.6, -0.6 - 0.9 * LIKELIHOOD_FALL, -0.6 - 1.1 * LIKELIHOOD_FALL),
        ("log_likelihood", -0.6, -0.7, math.nan),
        ("exact_match", 0.5, 0.3, 0.2),
    ],
)
def test_answers_that_collapse_are_told_of_with_what_perplexity_says(metric, before, harmless, broken):
    old = scores(**{metric: before})
    for perplexity in (20.0, 20 * CALM_PERPLEXITY + 1, math.nan):
        assert collapse(old, scores(perplexity, **{metric: harmless})) == ""
    for perplexity, said in (
        (19.0, "though the perplexity of novels did not rise"),
        (20.0, "though the perplexity of novels did not rise"),
        (22.4, "though the perplexity of novels rose by only 12%"),
        (20 * CALM_PERPLEXITY, "though the perplexity of novels rose by only 50%"),
        (36.8, "and the perplexity of novels rose by 84%, too"),
        (math.nan, "and the perplexity of novels is not finite, too"),
        (math.inf, "and the perplexity of novels is not finite, too"),
    ):
        found = collapse(old, scores(perplexity, **{metric: broken}))
        assert found.startswith(f"Warning: the answers of the pruned model have collapsed, {said}: ")
    assert collapse(old[1:], scores(**{metric: broken})[1:]).startswith(
        "Warning: the answers of the pruned model have collapsed: "
    )
    assert collapse(scores(), scores()) == ""


@pytest.mark.parametrize(
    ("news", "said"),
    [
        (22.0, "though perplexities rose by at most 20%"),
        (40.0, "and perplexities rose by up to 100%, too"),
        (math.nan, "and perplexities are not finite, too"),
    ],
)
def test_of_several_texts_the_perplexity_that_rose_most_counts(news, said):
    def both(novels, news, repetition):
        other = Score("news", "perplexity", news, 1.0, 8, False, "seq128")
        return [*scores(novels, repetition=repetition), other]

    assert f"have collapsed, {said}: " in collapse(both(20.0, 20.0, 0.0), both(24.0, news, 0.9))


def test_a_model_that_answers_in_circles_is_told_of_though_its_perplexity_is_nearly_the_same(gpt2):
    """What a model has just read is likelier to come again in text too, so that perplexity hardly shows the change."""
    model, tokenizer = gpt2
    texts = load_evaluation_text()
    drawn = DrawnToTheLast(copy.deepcopy(model), 2.0)
    prompts = [text[:200] for text in texts[:4]]
    check = GenerationCheck.from_model(model, prompts, tokenizer, max_new_tokens=64)
    before, after = (
        evaluate(each, tokenizer, texts=texts, n_sequences=8, generation=check).scores for each in (model, drawn)
    )
    ratio = after[0].value / before[0].value
    assert ratio < CALM_PERPLEXITY
    assert "four-token runs repeat" in collapse(before, after)


class DrawnToTheLast(nn.Module):
    """A model to whose logits a bonus for the tokens of the last eight places is added."""

    def __init__(self, model, bonus):
        super().__init__()
        self.model, self.bonus = model, bonus

    def forward(self, ids):
        logits = self.model(ids).logits
        for back in range(8):
            rows = ids[:, : ids.shape[1] - back]
            logits[:, back:].scatter_add_(-1, rows[..., None], torch.full(rows.shape, self.bonus)[..., None])
        return logits

"""Task rows -> sequences and utilities: log-likelihoods against hand-made ones, masked against removed, bad rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from layershap import Calibration, LayerGame, LayerPruner, Task, remove_layers, tasks
from layershap.datasets import load_calibration_text, load_task
from layershap.forward.unmasked import sequence_statistics
from layershap.protocols import SequenceStatistics
from layershap.scoring.evaluate import task_scores
from layershap.utilities import (
    ChoiceAccuracy,
    ChoiceLogProbability,
    ExactMatch,
    KLDivergence,
    NegativeLogLikelihood,
    OnSequences,
    PerplexityRatio,
    WeightedSum,
    resample_sequences,
)

QUESTIONS = [
    {"query": "The cat sat on the", "choices": ["mat", "cloud of dust", "sea"], "gold": 0},
    {"query": "He opened the", "choices": ["door and went in", "of"], "gold": 1},
    {"query": "She said that", "choices": ["it was so", "was it so", "so it was", "was so it"], "gold": 3},
]
MASKS = np.array([[1] * 12, [1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1]], dtype=bool)


def log_likelihood(model, tokenizer, context, continuation):
    """Of a continuation given a context, straight from the model."""
    ids = torch.tensor([tokenizer(context + continuation)["input_ids"]])
    start = len(tokenizer(context)["input_ids"])
    with torch.inference_mode():
        log_probs = model(ids).logits.double().log_softmax(-1)
    return sum(float(log_probs[0, t - 1, ids[0, t]]) for t in range(start, ids.shape[1]))


def by_hand(model, tokenizer, length):
    """Accuracy and mean log-probability of the right choice, one question at a time."""
    right, log_probs = [], []
    for row in QUESTIONS:
        found = [
            log_likelihood(model, tokenizer, row["query"], " " + c) / length(row["query"], c) for c in row["choices"]
        ]
        right.append(int(np.argmax(found)) == row["gold"])
        log_probs.append(found[row["gold"]] - np.log(np.sum(np.exp(found))))
    return np.mean(right), np.mean(log_probs)


@pytest.mark.parametrize("which", ["gpt2", "stories"])
@pytest.mark.parametrize("normalise", ["none", "characters", "bytes", "tokens"])
def test_choices_by_hand(request, which, normalise):
    model, tokenizer = request.getfixturevalue(which)
    measure = {
        "none": lambda query, choice: 1.0,
        "characters": lambda query, choice: len(choice),
        "bytes": lambda query, choice: len(choice.encode()),
        "tokens": lambda query, choice: len(tokenizer(f"{query} {choice}").input_ids) - len(tokenizer(query).input_ids),
    }[normalise]
    task = tasks.multiple_choice(QUESTIONS, tokenizer, normalise=normalise)
    layout = task.metrics["acc"].layout
    found = sequence_statistics(model, task.calibration, ("nll",))
    accuracy, log_prob = by_hand(model, tokenizer, measure)
    assert ChoiceAccuracy(layout, normalise).score(found) == pytest.approx([accuracy])
    assert task.utility.score(found) == pytest.approx([log_prob], abs=1e-4)


@pytest.mark.parametrize("name", ["winogrande", "copa"])
def test_masked_models_score_as_removed_ones(gpt2, name):
    model, tokenizer = gpt2
    task = tasks.multiple_choice(load_task(name)[:8], tokenizer)
    masked = LayerGame(model, task)(MASKS)
    assert LayerGame(model, task).utility is task.utility
    accuracies = LayerGame(model, task, utility=task.metrics["acc"])(MASKS)
    for mask, score, accuracy in zip(MASKS, masked, accuracies, strict=True):
        removed = remove_layers(model, np.flatnonzero(~mask)) if not mask.all() else model
        statistics = sequence_statistics(removed, task.calibration, ("nll",))
        assert task.utility.score(statistics) == pytest.approx([score], abs=1e-4)
        assert task_scores(removed, task)[0].value == accuracy


def test_winogrande_scores_the_continuation_after_each_context(gpt2):
    model, tokenizer = gpt2
    rows = load_task("winogrande")[:6]
    task = tasks.multiple_choice(rows, tokenizer)
    right = []
    for row in rows:
        options = [log_likelihood(model, tokenizer, c, " " + row["continuation"]) for c in row["context_options"]]
        right.append(int(np.argmax(options)) == row["gold"])
    assert task_scores(model, task)[0].value == np.mean(right)
    assert list(task.metrics) == ["acc"]


def test_exact_match_is_greedy_decoding(gpt2):
    model, tokenizer = gpt2
    passages = [" ".join(text.split()[10:40]) for text in load_calibration_text()]
    rows = []
    for passage in passages[:12]:
        # One half of the words are the model's own, the other half the book's.
        ids = torch.tensor([tokenizer(passage)["input_ids"]])
        own = tokenizer.decode(model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)[0])
        rows += [{"text": " ".join(own.split()[:-1])}, {"text": passage}]
    task = tasks.last_word(rows, tokenizer)
    hits = []
    for row in rows:
        context = row["text"].rpartition(" ")[0]
        continuation = tokenizer(row["text"])["input_ids"][len(tokenizer(context)["input_ids"]) :]
        ids = torch.tensor([tokenizer(context)["input_ids"]])
        with torch.inference_mode():
            new = model.generate(ids, max_new_tokens=len(continuation), do_sample=False, pad_token_id=0)
        hits.append(new[0, ids.shape[1] :].tolist() == continuation)
    assert 0 < np.mean(hits) < 1
    assert task_scores(model, task)[0].value == np.mean(hits)
    game = LayerGame(model, task, utility=ExactMatch())
    small = remove_layers(model, np.flatnonzero(~MASKS[1]))
    assert game(MASKS[:2]) == pytest.approx([np.mean(hits), task_scores(small, task)[0].value])


def test_fit_on_a_task_uses_its_utility(gpt2):
    model, tokenizer = gpt2
    task = tasks.multiple_choice(load_task("copa")[:8], tokenizer)
    pruner = LayerPruner(max_remove=2, n_masks=80, random_state=0).fit(model, task)
    assert pruner.baseline_score_ == LayerGame(model, task)(MASKS[:1])[0]
    assert pruner.diagnostics_["calibration"]["task"] == "multiple_choice"
    assert pruner.transform(model, 2).config.n_layer == 10
    # The errors include what other questions would have said: whole questions are drawn.
    assert np.isfinite(pruner.contributions_std_).all()
    assert np.isfinite(np.delete(pruner.diagnostics_["calibration_errors"], pruner.veto_players_)).all()
    assert np.isfinite(pruner.removal_probabilities_).all()


def test_rows_come_from_lists_files_and_datasets(gpt2, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, QUESTIONS)) + "\n\n", encoding="utf-8")
    expected = tasks.multiple_choice(QUESTIONS, gpt2[1]).calibration.digest
    for rows in (path, str(path), Dataset.from_list(QUESTIONS)):
        assert tasks.multiple_choice(rows, gpt2[1]).calibration.digest == expected


def test_a_long_context_loses_its_beginning(gpt2):
    model, tokenizer = gpt2
    context = " ".join(load_calibration_text()[0].split()[:400])
    row = {"query": context, "choices": ["sea", "pirates of the island"], "gold": 1}
    task = tasks.multiple_choice([row], tokenizer, max_length=256)
    assert task.calibration.seq_len == 256
    whole = tokenizer(context + " pirates of the island")["input_ids"]
    assert task.calibration.ids_ST[1].tolist() == whole[-256:]
    assert 0 < np.exp(task.utility.score(sequence_statistics(model, task.calibration, ("nll",)))[0]) < 1
    with pytest.raises(ValueError, match=r"256 positions.*max_length"):
        LayerGame(model, tasks.multiple_choice([row], tokenizer))


def test_empty_context_is_the_bos_token(gpt2):
    row = {"query": "", "choices": ["The sea", "A sea"], "gold": 0}
    found = tasks.multiple_choice([row], gpt2[1], delimiter="").calibration
    assert found.ids_ST[0].tolist() == [gpt2[1].bos_token_id, *gpt2[1]("The sea")["input_ids"]]
    assert found.counts_S.tolist() == [len(gpt2[1](c)["input_ids"]) for c in row["choices"]]


def test_weighted_sum_on_one_calibration_set(gpt2, gpt2_calibration):
    parts = (PerplexityRatio(), KLDivergence(), NegativeLogLikelihood())
    single = [LayerGame(gpt2[0], gpt2_calibration, utility=part)(MASKS) for part in parts]
    mixed = LayerGame(gpt2[0], gpt2_calibration, utility=WeightedSum(parts, (1.0, 0.5, 0.0)))
    assert mixed.engine.statistics == ("kl", "nll")
    assert mixed(MASKS) == pytest.approx(single[0] + 0.5 * single[1])


def test_mixture_of_tasks(gpt2):
    model, tokenizer = gpt2
    parts = [
        tasks.text(load_calibration_text(), tokenizer, name="novel", n_sequences=1),
        tasks.multiple_choice(QUESTIONS, tokenizer, name="choice"),
        tasks.last_word([{"text": "It was the best of times"}, {"text": "He went to the sea"}], tokenizer),
    ]
    single = [LayerGame(model, part)(MASKS) for part in parts]
    mixed = tasks.mixture(parts, [1.0, 0.2, 0.3])
    assert LayerGame(model, mixed)(MASKS) == pytest.approx(np.array([1.0, 0.2, 0.3]) @ single, rel=1e-5)
    assert LayerGame(model, tasks.mixture(parts))(MASKS) == pytest.approx(np.mean(single, axis=0), rel=1e-5)
    own = {f"{p.name}/{s.metric}": s.value for p in parts for s in task_scores(model, p)}
    assert {s.metric: s.value for s in task_scores(model, mixed)} == pytest.approx(own, rel=1e-5)


def test_bootstrap_draws_whole_questions_within_each_task(gpt2):
    """A resampled set scores as the mean over the questions drawn, and no task is left without sequences."""
    model, tokenizer = gpt2
    parts = [
        tasks.text(load_calibration_text(), tokenizer, n_sequences=1),
        tasks.multiple_choice(QUESTIONS, tokenizer, normalise="tokens"),
    ]
    task = tasks.mixture(parts, [0.0, 1.0])
    statistics = LayerGame(model, task).statistics(MASKS)
    per_question = parts[1].utility.per_question(LayerGame(model, parts[1]).statistics(MASKS))
    members = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    several = set()
    for seed in range(8):
        drawn = resample_sequences(task.utility, 10, np.random.default_rng(seed)).tolist()
        assert drawn[0] == 0
        questions = []
        while len(questions) < 3:
            start = 1 + sum(len(members[question]) for question in questions)
            questions.append(next(q for q in range(3) if drawn[start] == members[q][0]))
        assert drawn[1:] == [sequence for question in questions for sequence in members[question]]
        found = task.utility.score(statistics.resampled(np.array(drawn)))
        assert found == pytest.approx(per_question[:, questions].mean(axis=1), abs=1e-5)
        several.add(tuple(sorted(questions)))
    assert len(several) > 3


def test_bootstrap_of_a_mixture_on_one_calibration_set():
    rng = np.random.default_rng(0)
    independent = WeightedSum((PerplexityRatio(), KLDivergence()), (1.0, 1.0))
    drawn = resample_sequences(independent, 50, rng)
    assert drawn.shape == (50,)
    assert 20 < len(np.unique(drawn)) < 45
    part = WeightedSum((OnSequences(PerplexityRatio(), 10, 20), NegativeLogLikelihood()), (1.0, 1.0))
    drawn = resample_sequences(part, 50, rng)
    assert ((drawn >= 10) & (drawn < 20)).sum() == 10
    assert len(drawn) == 50


def test_a_broken_model_is_neither_right_nor_wrong(gpt2):
    task = tasks.multiple_choice(QUESTIONS, gpt2[1])
    statistics = LayerGame(gpt2[0], task).statistics(MASKS)
    broken = statistics.sums["nll"].copy()
    broken[1, 0] = np.nan
    found = SequenceStatistics({"nll": broken}, statistics.dense, statistics.counts)
    for utility in (ChoiceAccuracy(task.utility.layout), ChoiceLogProbability(task.utility.layout)):
        assert np.isnan(utility.score(found)).tolist() == [False, True, False]


def test_exact_match_is_of_the_sequences_that_ask_something(gpt2):
    hits = np.array([[2.0, 0.0, 0.0], [2.0, 0.0, 1.0], [np.nan, 0.0, 1.0]])
    found = SequenceStatistics({"hits": hits}, {"hits": hits[1]}, np.array([2.0, 0.0, 1.0]))
    assert ExactMatch().per_question(found).shape == (3, 2)
    np.testing.assert_array_equal(ExactMatch().score(found), [0.5, 1.0, np.nan])
    nothing = found.resampled(np.array([1, 1]))
    assert np.isnan(ExactMatch().score(nothing)).all()

    ids = torch.tensor([5, 6, 7])
    calibration = Calibration.from_rows([(ids, ids), (ids[:1], ids[:1]), (ids, ids)], {})
    score = task_scores(gpt2[0], Task("t", calibration, PerplexityRatio(), {"acc": ExactMatch()}))[0]
    assert (score.value, score.n) == (0.0, 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "a", "choices": ["b", "c"]}, "row 1 has no 'gold'"),
        ({"query": "a", "choices": ["b", "c"], "gold": ""}, "row 1 has no 'gold'"),
        ({"query": "a", "choices": ["b", "c"], "gold": 2}, r"gold of row 1 must be an index in \[0, 2\), got 2"),
        ({"query": "a", "choices": ["b", "c"], "gold": "b"}, r"gold of row 1 must be an index in \[0, 2\), got 'b'"),
        ({"query": "a", "choices": [], "gold": 0}, "row 1 must have at least two choices"),
        ({"query": "a", "choices": ["b", " "], "gold": 0}, r"choices must not be empty, those at \[1\] of row 1"),
        ({"query": "a", "choices": "bc", "gold": 0}, "row 1 must have at least two choices"),
        ({"context_options": ["a", "b"], "continuation": "", "gold": 0}, "continuation of row 1 is empty"),
        ({"question": "a", "answers": ["b"]}, r"row 1 must have 'query'.*it has \['answers', 'question'\]"),
        ("text", "row 1 is a str"),
        ({"query": "a", "choices": ["b", "word " * 300], "gold": 0}, "must fit the model's 256 positions.*row 1"),
    ],
)
def test_bad_rows(gpt2, row, message):
    with pytest.raises(ValueError, match=message):
        tasks.multiple_choice([QUESTIONS[0], row], gpt2[1], max_length=256)


def test_other_bad_input(gpt2, tmp_path):
    tokenizer = gpt2[1]
    with pytest.raises(ValueError, match="at least one row"):
        tasks.multiple_choice([], tokenizer)
    with pytest.raises(FileNotFoundError, match="no task file"):
        tasks.multiple_choice(tmp_path / "none.jsonl", tokenizer)
    (tmp_path / "bad.jsonl").write_text('{"query": "a"}\nnot json', encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad.jsonl, line 2 is no JSON"):
        tasks.multiple_choice(tmp_path / "bad.jsonl", tokenizer)
    with pytest.raises(ValueError, match="need a tokenizer"):
        tasks.multiple_choice(QUESTIONS, None)
    with pytest.raises(ValueError, match="a context and a last word"):
        tasks.last_word([{"text": "word"}], tokenizer)
    with pytest.raises(ValueError, match="normalise must be one of"):
        tasks.multiple_choice(QUESTIONS, tokenizer, normalise="words")
    with pytest.raises(TypeError, match="must be the ChoiceLayout"):
        ChoiceAccuracy(QUESTIONS)
    with pytest.raises(ValueError, match="different names"):
        tasks.mixture([tasks.multiple_choice(QUESTIONS, tokenizer)] * 2)
    with pytest.raises(ValueError, match="one weight for each"):
        WeightedSum((PerplexityRatio(),), (0.5, 0.5))
    with pytest.raises(ValueError, match="not negative"):
        WeightedSum((PerplexityRatio(),), (-1.0,))
    with pytest.raises(TypeError, match="plain"):
        WeightedSum((lambda model: 1.0,), (1.0,))
    with pytest.raises(ValueError, match="one of the shipped tasks"):
        load_task("mmlu")

    class NoSpecialTokens:
        bos_token_id = eos_token_id = None

        def __call__(self, texts, **kwargs):
            return tokenizer(texts, **kwargs)

    with pytest.raises(ValueError, match="empty context needs a bos_token"):
        tasks.multiple_choice([{"query": "", "choices": ["a", "b"], "gold": 0}], NoSpecialTokens())

"""Perplexity protocols, `evaluate`, and lm-evaluation-harness's scores on the same rows."""

from __future__ import annotations

import copy
import json
import math
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from layershap import (
    PAPER_TASKS,
    PERPLEXITY_PROTOCOLS,
    Calibration,
    LayerGame,
    MissingExtraError,
    PerplexityProtocol,
    Score,
    Task,
    evaluate,
    perplexity,
    remove_layers,
    side_by_side,
    tasks,
)
from layershap.datasets import load_evaluation_text, load_task, load_tiny_gpt2

TEXTS = load_evaluation_text()


def token_nlls(model, sequences):
    """Of all tokens but the first of each sequence, straight from the model."""
    with torch.inference_mode():
        log_probs = torch.cat([model(ids[None]).logits for ids in sequences])[:, :-1].double().log_softmax(-1)
    return -log_probs.gather(2, sequences[:, 1:, None])[..., 0]


# -- perplexity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "length"), [("seq128", 128), ("seq128-bos", 129)])
def test_protocols_are_the_papers(gpt2, name, length):
    model, tokenizer = gpt2
    stream = tokenizer("\n\n".join(TEXTS[:1]))["input_ids"]
    if name == "seq128":  # one BOS before everything, none before its sequences
        stream = [tokenizer.bos_token_id, *stream]
    blocks = torch.tensor(stream[: len(stream) // 128 * 128]).reshape(-1, 128)
    if name == "seq128-bos":
        blocks = torch.cat([torch.full((len(blocks), 1), tokenizer.bos_token_id), blocks], dim=1)
    found = PERPLEXITY_PROTOCOLS[name].sequences(TEXTS[:1], tokenizer)
    assert torch.equal(found.ids_ST, blocks)
    assert found.provenance["protocol"] == name
    nlls = token_nlls(model, blocks)
    result = perplexity(model, TEXTS[:1], tokenizer, protocol=name)
    assert result.value == pytest.approx(float(nlls.mean().exp()), rel=1e-4)
    assert float(result) == result.value == pytest.approx(math.exp(result.nll))
    assert (result.n_tokens, result.n_sequences, result.protocol) == (nlls.numel(), len(blocks), name)
    error = nlls.mean(dim=1).std() / math.sqrt(len(blocks))
    assert result.std_error == pytest.approx(result.value * float(error), rel=1e-4)


def test_seq2048_needs_a_model_with_that_many_positions(gpt2, stories):
    with pytest.raises(ValueError, match="256 positions, the longest has 2048"):
        perplexity(gpt2[0], TEXTS, gpt2[1], protocol="seq2048", n_sequences=1)
    sequences = PERPLEXITY_PROTOCOLS["seq2048"].sequences(TEXTS, stories[1], n_sequences=2)
    assert sequences.ids_ST.shape == (2, 2048)


def test_a_protocol_of_ones_own_and_calibration_under_a_protocol(gpt2):
    model, tokenizer = gpt2
    own = PerplexityProtocol("seq32-bos", 32, "sequence")
    result = perplexity(model, TEXTS, tokenizer, protocol=own, n_sequences=8, batch_tokens=50)
    assert str(result).endswith("(seq32-bos, 8 sequences)")
    game = LayerGame(model, own.sequences(TEXTS, tokenizer, n_sequences=8))
    statistics = game.statistics(np.ones((1, 12), dtype=bool))
    assert math.exp(statistics.sums["nll"].sum() / statistics.counts.sum()) == pytest.approx(result.value, rel=1e-5)


def test_bad_protocols(gpt2):
    model, tokenizer = gpt2

    class NoBos:
        bos_token_id = None

        def __call__(self, text, **kwargs):
            return tokenizer(text, **kwargs)

    with pytest.raises(ValueError, match="'seq128-bos' begins each sequence with a bos_token and NoBos has none"):
        perplexity(model, TEXTS, NoBos(), protocol="seq128-bos")
    without = perplexity(model, TEXTS, NoBos(), n_sequences=4)
    assert without.n_tokens == 4 * 127
    with pytest.raises(ValueError, match=r"protocol must be one of \['seq128', 'seq128-bos', 'seq2048'\]"):
        perplexity(model, TEXTS, tokenizer, protocol="wikitext")
    with pytest.raises(ValueError, match="needs a tokenizer"):
        perplexity(model, TEXTS, None)
    with pytest.raises(ValueError, match="these 1 texts have 3 tokens"):
        perplexity(model, "It was", tokenizer)
    with pytest.raises(ValueError, match="bos must be"):
        PerplexityProtocol("mine", 64, "none")


def test_a_broken_model_has_no_perplexity(gpt2):
    broken = copy.deepcopy(gpt2[0])
    broken.transformer.ln_f.weight.data[0] = math.nan
    assert math.isnan(perplexity(broken, TEXTS, gpt2[1], n_sequences=2).value)
    hopeless = copy.deepcopy(gpt2[0])
    hopeless.transformer.ln_f.weight.data *= 1e6
    assert perplexity(hopeless, TEXTS, gpt2[1], n_sequences=2).value == math.inf


# -- evaluate --------------------------------------------------------------------------------------------------------


def test_before_and_after(gpt2, tmp_path):
    model, tokenizer = gpt2
    small = remove_layers(model, [2, 6])
    path = tmp_path / "copa.jsonl"
    path.write_text("\n".join(map(json.dumps, load_task("copa"))), encoding="utf-8")
    arguments = {"texts": {"novels": TEXTS}, "tasks": [path], "n_sequences": 8, "limit": 20}
    before, after = evaluate(model, tokenizer, **arguments), evaluate(small, tokenizer, **arguments)
    for evaluated, evaluation in ((model, before), (small, after)):
        found = evaluation["novels", "perplexity"]
        assert found.value == perplexity(evaluated, TEXTS, tokenizer, n_sequences=8).value
        assert (found.protocol, found.n, found.higher_is_better) == ("seq128", 8, False)
        assert evaluation["copa", "acc"].n == 20
    assert before["novels", "perplexity"].value < after["novels", "perplexity"].value
    table = side_by_side({"dense": before, "pruned": after})
    lines = str(table).splitlines()
    assert lines[0].split() == ["task", "metric", "protocol", "n", "dense", "pruned"]
    assert lines[1].split()[:4] == ["novels", "perplexity", "seq128", "8"]
    row = table.to_records()[0]
    assert (row["dense"], row["pruned"]) == tuple(e["novels", "perplexity"].value for e in (before, after))
    assert [Score(**record) for record in json.loads(json.dumps(after.to_records()))] == list(after.scores)


def test_a_notebook_shows_evaluations_escaped(gpt2):
    found = evaluate(*gpt2, texts={"<b>novels</b>": TEXTS}, n_sequences=2)
    for shown in (found, side_by_side({"a <i>model</i>": found})):
        page = shown._repr_html_()
        assert "&lt;b&gt;novels&lt;/b&gt;" in page
        assert "<b>" not in page
        assert "<i>" not in page
        assert f"{found.scores[0].value:.2f}" in page


def test_figures_that_can_not_be_compared_get_different_rows(gpt2):
    model, tokenizer = gpt2
    plain, bos = (evaluate(model, tokenizer, texts=TEXTS, n_sequences=2, protocol=p) for p in ("seq128", "seq128-bos"))
    assert [row["protocol"] for row in side_by_side({"a": plain, "b": bos}).to_records()] == ["seq128", "seq128-bos"]
    fewer = evaluate(model, tokenizer, texts=TEXTS, n_sequences=1)
    assert [row["n"] for row in side_by_side({"a": plain, "b": fewer}).to_records()] == [2, 1]
    with pytest.raises(KeyError, match="no score"):
        plain["text", "acc"]


def test_task_objects_need_no_tokenizer_and_limit_the_standard_error(gpt2):
    task = tasks.multiple_choice(load_task("copa")[:30], gpt2[1], name="copa")
    assert isinstance(task, Task)
    score = evaluate(gpt2[0], tasks=[task])["copa", "acc"]
    # The sample standard deviation of 30 zeros and ones, over sqrt(30).
    assert score.std_error == pytest.approx(math.sqrt(score.value * (1 - score.value) / 29))


def test_bad_evaluations(gpt2, tmp_path):
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(gpt2[0], gpt2[1])
    with pytest.raises(ValueError, match="needs a tokenizer"):
        evaluate(gpt2[0], texts=TEXTS)
    with pytest.raises(FileNotFoundError, match="no task file"):
        evaluate(gpt2[0], gpt2[1], tasks=[tmp_path / "none.jsonl"])


def test_harness_tasks_without_the_extra_name_the_pip_command(gpt2, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtraError, match=r"lm_eval, which is not installed: pip install 'layershap\[eval\]'"):
        evaluate(gpt2[0], gpt2[1], tasks=["piqa"])


# -- lm-evaluation-harness -------------------------------------------------------------------------------------------

CHOICES = """output_type: multiple_choice
doc_to_text: "{{query}}"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
CONTEXTS = """output_type: multiple_choice
doc_to_text: gold
doc_to_choice: context_options
doc_to_target: continuation
metric_list: [{metric: acc}]
"""
LAST_WORD = """output_type: loglikelihood
doc_to_text: "{{text.split(' ')[:-1]|join(' ')}}"
doc_to_target: "{{' '+text.split(' ')[-1]}}"
metric_list: [{metric: acc}]
"""


def passages_that_end_in_frequent_words(n):
    """Passages of a held-out book; a small model gets some of their last words right."""
    words = " ".join(TEXTS).split()
    ends = [i for i in range(40, len(words)) if words[i] in ("the", "and", "of", "to", "it", "was")]
    return [{"text": " ".join(words[i - 24 : i + 1])} for i in ends[:: len(ends) // n]][:n]


@pytest.fixture(scope="module")
def local_tasks(tmp_path_factory):
    """Rows as JSONL files and the same rows as tasks of the harness, in one folder."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = {
        "arc_easy": (load_task("arc_easy"), CHOICES),
        "openbookqa": (load_task("openbookqa"), CHOICES),
        "copa": (load_task("copa"), CHOICES),
        "winogrande": (load_task("winogrande"), CONTEXTS),
        "last_word": (passages_that_end_in_frequent_words(80), LAST_WORD),
    }
    (folder / "yaml").mkdir()
    for name, (found, body) in rows.items():
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, found)), encoding="utf-8")
        where = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {path}\ntest_split: test\n"
        (folder / "yaml" / f"{name}.yaml").write_text(f"task: {name}\n{where}{body}", encoding="utf-8")
    return folder, list(rows)


@pytest.fixture
def untouched():
    """A model and a tokenizer of the test's own, the model in training mode."""
    model, tokenizer = load_tiny_gpt2()
    return model.train(), tokenizer


def test_evaluation_leaves_model_tokenizer_and_random_states_as_they_were(
    untouched, local_tasks, monkeypatch, tmp_path
):
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    model, tokenizer = untouched
    model.transformer.h[3].eval()  # a user's own choice
    flags = [module.training for module in model.modules()]
    special = dict(tokenizer.special_tokens_map)

    def drawn():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002 - the state that must not change

    for task in (local_tasks[0] / "copa.jsonl", local_tasks[0] / "yaml" / "copa.yaml"):
        random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
        expected = drawn()
        random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
        evaluate(model, tokenizer, tasks=[task], limit=4)
        assert drawn() == expected
        assert [module.training for module in model.modules()] == flags
        assert dict(tokenizer.special_tokens_map) == special
        assert tokenizer.pad_token is None


def test_a_limit_is_a_number_of_questions(gpt2, local_tasks):
    model, tokenizer = gpt2
    for task in (local_tasks[0] / "copa.jsonl", local_tasks[0] / "yaml" / "copa.yaml"):
        for limit, error in ((-1, ValueError), (0, ValueError), (0.5, TypeError), (True, TypeError), ("2", TypeError)):
            with pytest.raises(error, match=r"limit must be .*questions of each task"):
                evaluate(model, tokenizer, tasks=[task], limit=limit)
    assert evaluate(model, tokenizer, tasks=[local_tasks[0] / "copa.jsonl"], limit=np.int64(3)).scores[0].n == 3
    for wrong, error in ((-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="num_fewshot must be"):
            evaluate(model, tokenizer, tasks=["piqa"], num_fewshot=wrong)


@pytest.mark.parametrize(("which", "limit"), [("gpt2", 40), ("stories", None)])
def test_scores_equal_the_harnesss(request, which, limit, local_tasks, monkeypatch, tmp_path):
    """On five files, for a tokenizer that begins with a BOS and one that doesn't."""
    lm_eval = pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    model, tokenizer = request.getfixturevalue(which)
    folder, names = local_tasks
    ours = evaluate(model, tokenizer, tasks=[folder / f"{name}.jsonl" for name in names], limit=limit)
    theirs = evaluate(model, tokenizer, tasks=[folder / "yaml"], limit=limit)
    shared = [score for score in theirs.scores if score.metric in ("acc", "acc_norm")]
    assert {(score.task, score.metric) for score in shared} == {
        *((name, metric) for name in ("arc_easy", "openbookqa", "copa") for metric in ("acc", "acc_norm")),
        ("winogrande", "acc"),
        ("last_word", "acc"),
    }
    for score in shared:
        own = ours[score.task, score.metric]
        assert own.value == score.value, score
        assert own.std_error == pytest.approx(score.std_error)
        assert (own.n, own.higher_is_better) == (score.n, True)
        assert score.protocol == f"lm-eval {lm_eval.__version__}, 0-shot"
    assert ours["last_word", "acc"].value > 0


def test_log_likelihoods_equal_the_harnesss(gpt2):
    """Token boundaries, spaces at the end of a context, empty and overlong contexts, multi-byte text."""
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from layershap.forward.unmasked import sequence_statistics
    from layershap.tasks.encode import encode_pairs

    model, tokenizer = gpt2
    pairs = [
        ("The sea was", " calm"),
        ("The sea was ", "calm"),
        ("The sea was\n", "calm and — naïve — still"),
        ("", "The sea"),
        ("un", "likely"),
        (" ".join(TEXTS[0].split()[:400]), " and so it was"),
    ]
    encoded = Calibration.from_rows(encode_pairs(pairs, tokenizer, 256, range(len(pairs))), {})
    found = sequence_statistics(model, encoded, ("nll",)).sums["nll"][0]
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    # The harness doesn't feed the last token, so 256 tokens of a sequence are 255 of its positions.
    harness = HFLM(pretrained=model, tokenizer=tokenizer, max_length=255)
    expected = harness.loglikelihood(requests, disable_tqdm=True)
    assert -found == pytest.approx([value for value, _ in expected], abs=1e-3)


def test_bad_harness_tasks(gpt2, tmp_path):
    pytest.importorskip("lm_eval")
    with pytest.raises(ValueError, match="no task files"):
        evaluate(gpt2[0], gpt2[1], tasks=[tmp_path])
    with pytest.raises(FileNotFoundError, match="no task file"):
        evaluate(gpt2[0], gpt2[1], tasks=[tmp_path / "mine.yaml"])
    with pytest.raises(ValueError, match="need the model's tokenizer"):
        evaluate(gpt2[0], tasks=["piqa"])
    with pytest.raises(TypeError, match="needs a transformers model, got Linear"):
        evaluate(torch.nn.Linear(2, 2), gpt2[1], tasks=["piqa"])


def test_a_name_that_is_no_task_is_refused_before_anything_is_scored(gpt2, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.setattr("layershap.scoring.evaluate.perplexity", lambda *_, **__: pytest.fail("scored"))
    with pytest.raises(ValueError, match=r"task 'hellaswagg' .*knows none of this name\. Similar: hellaswag"):
        evaluate(*gpt2, texts=TEXTS, tasks=["hellaswagg"])


def test_the_papers_tasks_are_the_harnesss():
    lm_eval = pytest.importorskip("lm_eval")
    folders = ("super_glue/boolq", "piqa", "hellaswag", "winogrande", "arc", "openbookqa", "lambada")
    files = [f for folder in folders for f in (Path(lm_eval.__file__).parent / "tasks" / folder).glob("*.yaml")]
    defined = {name for f in files for name in re.findall(r"^task: (\S+)$", f.read_text("utf-8"), flags=re.MULTILINE)}
    assert len(PAPER_TASKS) == 8
    assert set(PAPER_TASKS) <= defined

"""Answers in the report: records, tables, page, card, files and the command line."""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings

import pytest

from layershap import GenerationCheck, GenerationWarning, LayerPruner, PruningReport, evaluate
from layershap.cli import main
from layershap.datasets import load_evaluation_text
from layershap.exceptions import ReportFormatError
from layershap.scoring.collapse import collapse

from .helpers.commands import prune
from .helpers.models import STORIES

PROMPTS = [text[:60] for text in load_evaluation_text()[:4]]


@pytest.fixture(scope="module")
def fitted(gpt2, gpt2_calibration):
    return LayerPruner(n_masks=60, max_remove=6, random_state=0).fit(gpt2[0], gpt2_calibration)


@pytest.fixture(scope="module")
def small(fitted, gpt2):
    return fitted.transform(gpt2[0], 2)


@pytest.fixture(scope="module")
def report(fitted, gpt2, small):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GenerationWarning)
        return fitted.report_.measure(
            gpt2[0],
            small,
            gpt2[1],
            texts={"novels": load_evaluation_text()},
            n_sequences=4,
            generation=[*PROMPTS[:3], "<b>The ship"],
            max_new_tokens=20,
            batch_sizes=(),
        )


def test_figures_and_answers_are_those_of_the_models(report, gpt2, small):
    (outcome,) = report.outcomes
    model, tokenizer = gpt2
    check = GenerationCheck.from_model(model, [*PROMPTS[:3], "<b>The ship"], tokenizer, max_new_tokens=20)
    for record, measured in ((outcome.before, model), (outcome.after, small)):
        assert record.scores[0].metric == "perplexity"
        assert record.scores[1:] == evaluate(measured, tokenizer, generation=check).scores
    found = outcome.generation
    assert found.lengths == tuple(map(len, check.answers))
    divergence = next(score for score in outcome.after.scores if score.metric == "first_divergence")
    assert sum(found.equal_starts) / 4 == divergence.value
    assert found.provenance["n_prompts"] == 4
    assert [example.prompt for example in found.examples] == PROMPTS[:3]
    for example, old, new in zip(found.examples, check.answers, check.answers_of(small), strict=False):
        assert (example.before, example.after) == (tokenizer.decode(old), tokenizer.decode(new))


def test_a_report_of_the_same_model_twice_would_agree(report):
    before = {score.metric: score.value for score in report.outcomes[0].before.scores}
    assert before["equal_answers"] == before["equal_tokens"] == 1.0


def test_tables_page_and_card_show_them(report):
    tables = report.tables()
    rows = {row[0]: row for row in tables["outcome_1"].rows}
    name = next(
        name for name in rows if name.startswith("log_likelihood of generation (greedy, up to 20 tokens, n = 4")
    )
    assert rows[name][1] > rows[name][2]
    assert "repetition: share of the runs of four tokens" in tables["outcome_1"].note
    answers = dict(tables["answers_1"].rows)
    assert answers["prompt 1"] == PROMPTS[0]
    assert answers["answer 1, before"] == report.outcomes[0].generation.examples[0].before
    page = report.to_html()
    assert "greedy answers" in page
    card = str(report.to_model_card(2, name="small"))
    assert "log\\_likelihood of generation" in card or "log_likelihood of generation" in card
    assert PROMPTS[0] not in card


def test_log_likelihoods_have_no_ratio(report):
    """Below 0 the worse one would have the larger ratio, which reads like a gain."""
    rows = {str(row[0]).partition(" of ")[0]: row for row in report.tables()["outcome_1"].rows}
    _, before, after, ratio = rows["log_likelihood"]
    assert after < before < 0
    assert ratio is None
    _, before, after, ratio = rows["perplexity"]
    assert ratio == after / before


def test_answers_without_words_are_no_blank_cells(report):
    (outcome,) = report.outcomes
    examples = [
        dataclasses.replace(example, before=before, after=after)
        for example, (before, after) in zip(outcome.generation.examples, [("", "\n "), ("Yes.", "")], strict=False)
    ]
    record = dataclasses.replace(outcome.generation, examples=tuple(examples))
    silent = dataclasses.replace(report, outcomes=(dataclasses.replace(outcome, generation=record),))
    answers = dict(silent.tables()["answers_1"].rows)
    assert (answers["answer 1, before"], answers["answer 1, after"]) == ("(empty)", "(white space only)")
    assert (answers["answer 2, before"], answers["answer 2, after"]) == ("Yes.", "(empty)")
    assert "(empty)" in silent.to_html()


def test_of_a_chat_the_message_that_is_answered_is_shown(fitted, gpt2, small):
    tokenizer = copy.deepcopy(gpt2[1])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    turns = [("system", "Be brief."), ("user", "Where is it?"), ("assistant", "Here."), ("user", "And the ship?")]
    chat = [{"role": role, "content": content} for role, content in turns]
    parts = [{"type": "image"}, {"type": "text", "text": "What is"}, {"type": "text", "text": "this?"}]
    prompts = [chat, [*chat, {"role": "assistant", "content": "At sea."}], [{"role": "user", "content": parts}]]
    arguments = {"generation": prompts, "max_new_tokens": 4, "batch_sizes": ()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GenerationWarning)
        (outcome,) = fitted.report_.measure(gpt2[0], small, tokenizer, **arguments).outcomes
        shown = [example.prompt for example in outcome.generation.examples]
        assert shown == ["And the ship?", "And the ship?", "What is this?"]
        ids = [tokenizer(text)["input_ids"] for text in PROMPTS[:1]]
        (outcome,) = fitted.report_.measure(
            gpt2[0], small, tokenizer, **arguments | {"generation": {"input_ids": ids}}
        ).outcomes
    assert [example.prompt for example in outcome.generation.examples] == PROMPTS[:1]


def test_a_collapse_is_said_where_the_figures_are(report, fitted, gpt2):
    outcome = report.outcomes[0]
    scores = tuple(
        dataclasses.replace(score, value=0.9) if score.metric == "repetition" else score
        for score in outcome.before.scores
    )
    after = dataclasses.replace(outcome.after, scores=scores)
    broken = dataclasses.replace(report, outcomes=(dataclasses.replace(outcome, after=after),))
    warning = collapse(outcome.before.scores, scores)
    assert "90% of their four-token runs repeat" in warning
    assert warning in broken.tables()["outcome_1"].note
    sentence = "Warning: the answers of the pruned model have collapsed"
    assert sentence in broken.to_html()
    assert sentence in str(broken.to_model_card(2, name="small"))
    assert sentence not in str(report) or collapse(outcome.before.scores, outcome.after.scores)


def test_measure_warns_of_a_collapse_and_only_then(fitted, gpt2, small, report):
    model, tokenizer = gpt2
    said = GenerationCheck.from_model(model, PROMPTS, tokenizer, max_new_tokens=16).answers
    rows = [{"prompt": p, "answer": tokenizer.decode(a)} for p, a in zip(PROMPTS, said, strict=True)]
    arguments = {"generation": rows, "max_new_tokens": 16, "batch_sizes": ()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        measured = [fitted.report_.measure(model, fitted.transform(model, n), tokenizer, **arguments) for n in (1, 6)]
    said = [str(w.message) for w in caught if issubclass(w.category, GenerationWarning)]
    expected = [collapse(m.outcomes[0].before.scores, m.outcomes[0].after.scores) for m in measured]
    assert said == [text.removeprefix("Warning: ") for text in expected if text]
    assert "0% of them are right (before: 100%)" in expected[1]


def test_files(report, tmp_path):
    path = report.save(tmp_path / "report.json")
    assert PruningReport.load(path) == report
    content = json.loads(path.read_text())
    assert content["layershap_report"] == 4
    assert "higher_is_better" in content["outcomes"][0]["after"]["scores"][0]
    content["outcomes"][0]["generation"]["equal_starts"][0] = 99
    path.write_text(json.dumps(content))
    with pytest.raises(ReportFormatError, match=r"outcomes\[0\]\.generation\.equal_starts must be at most"):
        PruningReport.load(path)
    content["outcomes"][0]["generation"]["equal_starts"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(ReportFormatError, match=r"generation must be an object with as many lengths as equal_starts"):
        PruningReport.load(path)


def test_a_report_of_format_2_is_read(report, tmp_path):
    path = report.save(tmp_path / "report.json")
    content = json.loads(path.read_text())
    content["layershap_report"] = 2
    del content["outcomes"][0]["generation"]
    for model in ("before", "after"):
        of_text = [s for s in content["outcomes"][0][model]["scores"] if s["metric"] == "perplexity"]
        content["outcomes"][0][model]["scores"] = of_text
    path.write_text(json.dumps(content))
    (outcome,) = PruningReport.load(path).outcomes
    assert outcome.generation is None
    assert outcome.after.scores == report.outcomes[0].after.scores[:1]


def test_the_command_line(run_folder, tmp_path, capsys, stories):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('"Once upon a time"\n{"prompt": "Lily saw", "answer": "a big"}\n', encoding="utf-8")
    small = tmp_path / "small"
    assert prune(small, "--report", run_folder / "report.json", "--n-remove", 2) == 0
    capsys.readouterr()
    options = ["--generation", str(prompts), "--new-tokens", "12"]
    assert main(["evaluate", str(STORIES), str(small), *options, "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    dense, pruned = ({row["metric"]: row["value"] for row in data[str(source)]} for source in (STORIES, small))
    assert dense["equal_tokens"] == 1.0
    rows = ["Once upon a time", {"prompt": "Lily saw", "answer": "a big"}]
    check = GenerationCheck.from_model(stories[0], rows, stories[1], max_new_tokens=12)
    expected = evaluate(stories[0], stories[1], generation=check)
    assert dense == {score.metric: pytest.approx(score.value) for score in expected.scores}
    assert pruned["log_likelihood"] < dense["log_likelihood"]
    assert main(["evaluate", str(STORIES), str(small), *options]) == 0
    assert "equal_tokens" in capsys.readouterr().out
    report = [str(run_folder / "report.json"), "--model", str(STORIES), "--pruned", str(small), "--no-speed"]
    assert main(["report", *report, *options, "--card", str(tmp_path / "card.md")]) == 0
    loaded = PruningReport.load(run_folder / "report.json")
    found = {score.metric: score.value for score in loaded.outcomes[0].after.scores}
    assert found == {metric: pytest.approx(value) for metric, value in pruned.items()}
    assert "equal" in (tmp_path / "card.md").read_text(encoding="utf-8")


def test_files_of_prompts_that_can_not_be_read_name_the_row(tmp_path, capsys):
    for name, content, message in (
        ("a.jsonl", '"x"\n{"question": "y"}\n', "a.jsonl, line 2 must be a text, or an object with 'prompt'"),
        ("a.json", "[3]", "a.json, row 1 must be a text, or an object"),
        ("a.txt", " \n", "a.txt must hold prompts, it is blank"),
    ):
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert main(["evaluate", "no/model", "--generation", str(tmp_path / name)]) == 1
        assert message in capsys.readouterr().err.splitlines()[-1]

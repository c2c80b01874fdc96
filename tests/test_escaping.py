"""Names that others chose are shown as they are: never as markup, formulae, line breaks or terminal commands."""

from __future__ import annotations

import json
import re
import warnings
from html import unescape
from html.parser import HTMLParser

import matplotlib
import pytest
import torch

matplotlib.use("Agg")

from layershap import Calibration, LayerPruner, PruningReport
from layershap.display import ContributionDisplay, DepthCurveDisplay
from layershap.escaping import markdown_code, markdown_text, one_line
from layershap.report import Table
from layershap.scoring.scores import Evaluation, Score, side_by_side
from layershap.tables import format_cell

HOSTILE = (
    "<script>alert(1)</script>",
    "a|b|c",
    "two\nlines\r\n# heading",
    "**bold** [link](https://example.org) ![x](y) `code`",
    "x' onload=\"alert(1)",
    r"$\frac$ and $\notamacro{",
    "lone \ud800 surrogate",
    "\x1b[2J\x1b[31mred\x00",
    "right \u202eto left",
    "&lt;img src=x onerror=alert(1)&gt;",
)


@pytest.fixture(scope="module")
def plain(gpt2, gpt2_calibration):
    return LayerPruner(n_masks=60, max_remove=2, random_state=0).fit(gpt2[0], gpt2_calibration).report_


def spoilt(report, text, path):
    """The report with every string in its file replaced, names of fields and values of a fixed set apart."""

    def replaced(value):
        if isinstance(value, dict):
            return {key: replaced(item) for key, item in value.items()}
        if isinstance(value, list):
            return [replaced(item) for item in value]
        return text if isinstance(value, str) and value not in ("layer", "NaN") else value

    content = replaced(json.loads(report.save(path).read_text()))
    content["doubts"] = [text]
    content["fit"]["settings"][text] = text
    content["calibration"]["provenance"][text] = text
    content["calibration"]["provenance"]["kinds"] = {text: text}
    content["calibration"]["provenance"]["scored_tokens"] = {text: text}
    content["environment"]["versions"][text] = text
    path.write_text(json.dumps(content))
    return PruningReport.load(path)


class _Tags(HTMLParser):
    known = re.compile(
        r"html|head|meta|title|style|body|h1|p|small|table|caption|thead|tbody|t[rhd]|details|summary|ul"
    )
    inline = re.compile(r"li|code|figure|img")

    def __init__(self):
        super().__init__()
        self.attributes = set()

    def handle_starttag(self, tag, attrs):
        assert self.known.fullmatch(tag) or self.inline.fullmatch(tag), tag
        self.attributes.update(name for name, _ in attrs)


@pytest.mark.parametrize("text", HOSTILE)
def test_page_card_and_text_show_it_as_it_is(plain, text, tmp_path):
    report = spoilt(plain, text, tmp_path / "report.json")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        page = report.to_html(tmp_path / "page.html", n_remove=1)
    tags = _Tags()
    tags.feed(page)
    assert tags.attributes <= {"lang", "charset", "name", "content", "style", "alt", "src"}
    assert page.count("<img") == 5
    assert one_line(text) in unescape(page)

    card = report.to_model_card(1, name=text, base_model=text)
    card.save(tmp_path / "README.md")
    body = card.text
    assert not re.search(r"<(?!/?\w*&)", body.replace(markdown_code(text), "")), "a tag in the card"
    assert not re.search(r"^# heading", body, re.MULTILINE)
    columns = {len(re.findall(r"(?<!\\)\|", line.replace(r"\\", ""))) for line in body.splitlines() if line[:2] == "| "}
    assert columns == {8}, "a cell that ended early"

    shown = str(report)
    shown.encode("utf-8")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", shown)
    layers = report.tables()["layers"]
    title_columns_rule_rows = 3 + len(layers.rows)
    assert str(layers).splitlines()[title_columns_rule_rows].startswith("value: ")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_table_of_it_in_every_form(text):
    table = Table(text, (text, "n"), ((text, 1),), note=text)
    assert len(str(table).splitlines()) == 5
    lines = table.to_markdown().splitlines()
    assert len(lines) == 5
    assert "<script" not in table.to_markdown() + table.to_html()
    assert format_cell(text) == one_line(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_evaluations_and_calibration_data_show_it_as_it_is(text):
    score = Score(text, text, 1.0, 0.1, 5, False, text)
    shown = side_by_side({text: Evaluation((score,))})
    assert len(str(shown).splitlines()) == 2
    ids = torch.arange(8).reshape(2, 4)
    data = Calibration(ids, ids, {text: text, "tokenizer": text})
    assert len(repr(data).splitlines()) == 1
    for plain in (str(shown), repr(data)):
        plain.encode("utf-8")
        assert one_line(text) in plain
        assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", plain)
    for page in (shown._repr_html_(), data._repr_html_()):
        page.encode("utf-8")
        tags = _Tags()
        tags.feed(page)
        assert not tags.attributes
        assert one_line(text) in unescape(page)


@pytest.mark.parametrize("text", HOSTILE)
def test_pictures_write_it_as_it_is(text):
    import numpy as np

    bars = ContributionDisplay(np.array([0.1, 0.2]), np.zeros(2), np.array([True, False]), (text, "b"), text).plot()
    bars.figure_.canvas.draw()
    assert bars.ax_.get_xticklabels()[0].get_text() == one_line(text)
    assert not bars.ax_.get_xticklabels()[0].get_parse_math()
    curves = DepthCurveDisplay(np.arange(2), {text: np.ones(2), "other": np.ones(2)}, text).plot()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        curves.figure_.canvas.draw()
    assert [label.get_text() for label in curves.ax_.get_legend().get_texts()] == [one_line(text), "other"]


def test_markdown_of_ordinary_names_stays_readable():
    assert markdown_text("tiny_gpt2 3.mixer PerplexityRatio(top_k=5)") == "tiny_gpt2 3.mixer PerplexityRatio(top_k=5)"
    assert markdown_text("_x_") == r"\_x\_"
    assert markdown_code("meta-llama/Llama-2-7b-hf") == "`meta-llama/Llama-2-7b-hf`"
    assert markdown_code("`") == "`` ` ``"

"""Text that others wrote (names of layers, models, tokenizers, tasks), where this library writes it: never markup."""

from __future__ import annotations

import re
from html import escape

# Control characters (terminal escapes and line breaks among them), and what Unicode counts as a line break.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# Lone surrogates can't be encoded; the bidirectional controls show what follows in another order than it has.
_NOT_TEXT = re.compile(r"[\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
# An underscore within a word is no emphasis and stays as it is.
_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def one_line(text: str) -> str:
    r"""The text on one line that can be printed and encoded.

    Examples
    --------
    >>> one_line("a\nb")
    'a b'
    """
    return _NOT_TEXT.sub("\ufffd", _CONTROL.sub(" ", text))


def html_text(text: str) -> str:
    """The text for HTML, between tags or in a quoted attribute.

    Examples
    --------
    >>> html_text("<b> & 'c'")
    '&lt;b&gt; &amp; &#x27;c&#x27;'
    """
    return escape(one_line(text))


def markdown_text(text: str) -> str:
    r"""The text for Markdown, in a paragraph or the cell of a table.

    Examples
    --------
    >>> print(markdown_text("<b>|*c*|d_e"))
    &lt;b&gt;\|\*c\*\|d_e
    >>> print(markdown_text("3.1 -> 2.9"))
    3.1 -> 2.9
    """
    # An arrow stays readable: it can neither close a tag, as none is open, nor begin a quotation.
    return _MARKDOWN.sub(r"\\\g<0>", escape(one_line(text), quote=False).replace("-&gt;", "->"))


def markdown_code(text: str) -> str:
    """The text as a code span of Markdown, whatever backticks it holds.

    Examples
    --------
    >>> markdown_code("a`b")
    '``a`b``'
    """
    line = one_line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"

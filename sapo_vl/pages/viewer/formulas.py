r"""Formulas in problems and responses as MathML, which browsers draw without a script.

Between $..$, $$..$$, \(..\) and \[..\], and \boxed{..} anywhere. latex2mathml parses LaTeX into a
tree but writes foreign text and attributes (\text, \href, \style) as they are: the tree is written
here instead, with the elements and attributes of a list and all text escaped. What can't be parsed
stays as it was written.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from markupsafe import Markup, escape

from sapo_vl.errors import printable_lines
from sapo_vl.schema import IMAGE_MARK

MAX_FORMULA = 1000
"""Characters of a formula that is drawn; longer ones are mostly a sign that a `$` is missing."""

MAX_FORMULAS = 200
"""Formulas of a text that are drawn, so that no text holds a page up."""

ELEMENTS = frozenset(
    (
        *("mrow", "mi", "mn", "mo", "mtext", "mspace", "msup", "msub", "msubsup", "mfrac", "msqrt"),
        *("mroot", "munder", "mover", "munderover", "mtable", "mtr", "mtd", "mstyle", "mpadded"),
        *("mphantom", "menclose", "mmultiscripts", "mprescripts", "none"),
    )
)
ATTRIBUTES = frozenset(
    (
        *("stretchy", "fence", "form", "separator", "lspace", "rspace", "minsize", "maxsize"),
        *("linethickness", "columnalign", "displaystyle", "scriptlevel", "mathvariant", "accent"),
        *("accentunder", "width", "height", "depth"),
    )
)
VALUE = re.compile(r"[\w.%+ -]{1,40}")
"""Values of attributes that are kept: numbers, lengths, names."""

_FORMULA = re.compile(
    rf"\$\$(?P<dollars>[^$]{{1,{MAX_FORMULA}}})\$\$"
    rf"|\$(?!\s)(?P<dollar>[^$\n]{{1,{MAX_FORMULA}}})(?<!\s)\$(?!\d)"
    rf"|\\\((?P<round>(?:(?!\\\(|\\\)).){{1,{MAX_FORMULA}}})\\\)"
    rf"|\\\[(?P<square>(?:(?!\\\[|\\\]).){{1,{MAX_FORMULA}}})\\\]"
    r"|(?P<boxed>\\boxed\{)",
    re.DOTALL,
)

_THOUGHT = re.compile(r".*</think>", re.DOTALL)


def plain(text: str) -> Markup:
    """Return escaped text with its control characters made visible."""
    return escape(printable_lines(text))


def rich(text: str) -> Markup:
    """Return a problem's or response's text with its formulas drawn, the thinking set apart."""
    thought = _THOUGHT.match(text)
    if thought is None:
        return Markup("").join(_parts(text))
    rest = text[thought.end() :]
    return Markup('<span class="thought">{}</span>{}').format(
        Markup("").join(_parts(thought[0])), Markup("").join(_parts(rest))
    )


def problem(text: str) -> Markup:
    """Return a problem's text as `rich` does, with its image marks numbered."""
    first, *rest = text.split(IMAGE_MARK)
    marks = (
        Markup('<span class="image-mark">picture {}</span>{}').format(number, rich(part))
        for number, part in enumerate(rest, start=1)
    )
    return rich(first) + Markup("").join(marks)


def _parts(text: str) -> Iterator[Markup]:
    position = drawn = 0
    for match in _FORMULA.finditer(text):
        if match.start() < position:
            continue  # inside of \boxed{..}
        end, source = match.end(), match[match.lastgroup or 0]
        if match["boxed"]:
            end = _closing(text, end)
            source = text[match.start() : end]
        formula = mathml(source, block=bool(match["dollars"] or match["square"])) if end else None
        if formula is None or drawn == MAX_FORMULAS:
            continue
        drawn += 1
        yield plain(text[position : match.start()])
        yield Markup('<span class="formula">{}<code>{}</code></span>').format(
            formula, plain(text[match.start() : end])
        )
        position = end
    yield plain(text[position:])


def _closing(text: str, start: int) -> int:
    """Return the end of the braces that were opened before `start`, or 0."""
    depth = 1
    for i in range(start, min(len(text), start + MAX_FORMULA)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return i + 1
    return 0


@lru_cache(4096)
def mathml(source: str, *, block: bool = False) -> Markup | None:
    """Return a formula as MathML, or None when it can't be parsed."""
    from latex2mathml.converter import convert_to_element

    try:
        tree = convert_to_element(source)
        content = Markup("").join(_written(child) for child in tree)
    except Exception:  # whatever a parser raises for a model's half a formula
        return None
    return Markup('<math display="{}">{}</math>').format("block" if block else "inline", content)


def _written(element: Any) -> Markup:
    """Write an element of the list with its children; others give their children alone."""
    text = html.unescape(element.text or "")  # the parser writes symbols as references
    inside = plain(text) + Markup("").join(_written(child) for child in element)
    name = element.tag.rpartition("}")[2]
    if name not in ELEMENTS:
        return inside
    kept = [(k, v) for k, v in element.attrib.items() if k in ATTRIBUTES and VALUE.fullmatch(v)]
    if name == "menclose":  # browsers don't draw it
        name, kept = "mrow", [("class", "boxed")]
    attributes = Markup("").join(Markup(' {}="{}"').format(k, v) for k, v in kept)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), attributes, inside)
